"""The five steps of CONTRIBUTING, done in a copy of the tree: the method is everywhere, with no other file edited."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs_blocks import ROOT, blocks

pytestmark = pytest.mark.soak


TOUCHED = {
    'mmdistill_dense/distillers/energy.py', 'mmdistill_dense/distillers/__init__.py', 'docs/methods/energy.md',
    'configs/_base_/distillers/energy_seg.py', 'tests/distillers/test_energy.py',
}  # fmt: skip


def write_tree(folder: Path) -> None:
    """A copy of the tree with the method of the guide: a block is the file that its first line names."""
    for name in ('mmdistill_dense', 'configs', 'docs', 'tools', 'tests'):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns('*.pyc.*'))
    for name in ('README.md', 'model-index.yml', 'setup.cfg'):
        shutil.copy(ROOT / name, folder / name)
    own = [block for block in blocks('python', 'markdown') if block.guide.name == 'CONTRIBUTING.md']
    assert {block.file or 'mmdistill_dense/distillers/__init__.py' for block in own} == TOUCHED
    for block in own:
        if block.file:
            assert not (folder / block.file).exists()
            (folder / block.file).write_text(block.text.partition('\n')[2], encoding='utf-8')
        else:  # a line to add to one
            file = folder / 'mmdistill_dense/distillers/__init__.py'
            file.write_text(file.read_text().replace('\n\n__all__', f'\n{block.text.strip()}\n\n__all__', 1))


STEPS = """
import contextlib, io, json, runpy, sys
from pathlib import Path

import pytest
from mmengine.config import Config

told = {}


def files():
    return {str(path): path.read_bytes() for path in Path().rglob('*') if path.is_file()}


def program(*words):
    out, sys.argv = io.StringIO(), list(words)
    run = runpy.run_path if words[0].endswith('.py') else runpy.run_module
    with contextlib.redirect_stdout(out):
        try:
            run(words[0], run_name='__main__')
        except SystemExit as end:
            assert not end.code, (words, end.code, out.getvalue())
    told[' '.join(words)] = out.getvalue()


program('mmdistill_dense', 'suite', 'list')
before = files()
from mmdistill_dense.apps.recipes.named import find

Path('configs/energy').mkdir()
Path('configs/energy/toy_seg.py').write_text(find('energy:toy_seg').text())
told['config'] = str(Config.fromfile('configs/energy/toy_seg.py').model.distillers)
program('tools/catalogue.py')
after = files()
told['changed'] = [path for path in before if after.get(path) != before[path]]
told['test'] = pytest.main(['-q', '-p', 'no:cacheprovider', 'tests/distillers/test_energy.py'])
Path('told.json').write_text(json.dumps(told))
"""


def test_a_method_is_everywhere_with_no_other_file_edited(tmp_path: Path) -> None:
    """Its own test passes, a suite lists it, its configs and its place in the documents are written."""
    write_tree(tmp_path)
    environment = {**os.environ, 'PYTHONPATH': str(tmp_path), 'PYTHONDONTWRITEBYTECODE': '1', 'COLUMNS': '200'}
    done = subprocess.run([sys.executable, '-c', STEPS], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads((tmp_path / 'told.json').read_text())
    assert told['test'] == 0 and ' passed' in done.stdout, done.stdout
    assert re.search(r'\benergy\b', told['mmdistill_dense suite list'])
    assert told['config'] == "{'energy': {'type': 'Energy', 'loss_weight': 10.0}}"
    assert '1 files in `energy`' in (tmp_path / 'docs/methods/README.md').read_text()
    assert 'configs/energy/metafile.yml' in (tmp_path / 'model-index.yml').read_text()
    assert (tmp_path / 'configs/energy/metafile.yml').read_text().count('Name: energy_') == 1
    metafiles = {path.relative_to(tmp_path).as_posix() for path in tmp_path.glob('configs/*/metafile.yml')}
    assert set(told['changed']) <= {'docs/methods/README.md', 'model-index.yml', *metafiles}
