"""The five steps of CONTRIBUTING, done in a copy of the tree: the method is everywhere, with no other file edited."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.docs_blocks import ROOT, blocks

pytestmark = pytest.mark.soak

TOUCHED = {
    'mmdistill_dense/distillers/energy.py', 'mmdistill_dense/distillers/__init__.py', 'docs/methods/energy.md',
    'configs/_base_/distillers/energy_seg.py', 'tests/distillers/test_energy.py',
}  # fmt: skip


def files() -> dict[str, str]:
    """The files of the guide by their name, which stands in their first line; the line to add to one has none."""
    own = [block for block in blocks('python', 'markdown') if block.guide.name == 'CONTRIBUTING.md']
    named = {block.file: block.text.partition('\n')[2] if block.file else block.text for block in own}
    return {name or 'mmdistill_dense/distillers/__init__.py': text for name, text in named.items()}


@pytest.fixture(scope='module')
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tree with the method of the guide."""
    folder = tmp_path_factory.mktemp('contributing')
    for name in ('mmdistill_dense', 'configs', 'docs', 'tools', 'tests'):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns('*.pyc.*'))
    for name in ('README.md', 'model-index.yml', 'setup.cfg'):
        shutil.copy(ROOT / name, folder / name)
    assert set(files()) == TOUCHED
    for name, text in files().items():
        file = folder / name
        assert file.exists() is name.endswith('__init__.py')
        if file.exists():
            text = file.read_text().replace('\n\n__all__', f'\n{text.strip()}\n\n__all__', 1)
        file.write_text(text, encoding='utf-8')
    return folder


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


@pytest.fixture(scope='module')
def told(tree: Path) -> dict[str, Any]:
    """What the programs of the guide say in the copy, one after the other in one process."""
    environment = {**os.environ, 'PYTHONPATH': str(tree), 'PYTHONDONTWRITEBYTECODE': '1', 'COLUMNS': '200'}
    done = subprocess.run([sys.executable, '-c', STEPS], cwd=tree, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return {**json.loads((tree / 'told.json').read_text()), 'said': done.stdout}


def test_its_own_test_passes(told: dict[str, Any]) -> None:
    assert told['test'] == 0 and ' passed' in told['said'], told['said']


def test_a_suite_lists_it(told: dict[str, Any]) -> None:
    assert re.search(r'\benergy\b', told['mmdistill_dense suite list'])


def test_its_configs_and_its_place_in_the_documents_are_written(tree: Path, told: dict[str, Any]) -> None:
    assert told['config'] == "{'energy': {'type': 'Energy', 'loss_weight': 10.0}}"
    assert '1 files in `energy`' in (tree / 'docs/methods/README.md').read_text()
    assert 'configs/energy/metafile.yml' in (tree / 'model-index.yml').read_text()
    assert (tree / 'configs/energy/metafile.yml').read_text().count('Name: energy_') == 1
    metafiles = {path.relative_to(tree).as_posix() for path in tree.glob('configs/*/metafile.yml')}
    assert set(told['changed']) <= {'docs/methods/README.md', 'model-index.yml', *metafiles}
