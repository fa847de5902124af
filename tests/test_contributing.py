"""The five steps of CONTRIBUTING, done in a copy of the tree: the method is everywhere, with no other file edited."""

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
    own_blocks = [block for block in blocks('python', 'markdown') if block.guide.name == 'CONTRIBUTING.md']
    assert {block.file or 'mmdistill_dense/distillers/__init__.py' for block in own_blocks} == TOUCHED
    for block in own_blocks:
        if block.file:
            assert not (folder / block.file).exists()
            (folder / block.file).write_text(block.text.partition('\n')[2], encoding='utf-8')
        else:  # a line to add to one
            file = folder / 'mmdistill_dense/distillers/__init__.py'
            file.write_text(file.read_text().replace('\n\n__all__', f'\n{block.text.strip()}\n\n__all__', 1))


CONFIG = """
from mmengine.config import Config
from mmdistill_dense.apps.recipes.named import find_named

text = find_named('energy:toy_seg').text()  # of no file
open('configs/energy/toy_seg.py', 'w').write(text)
print(Config.fromfile('configs/energy/toy_seg.py').model.distillers)
"""


def test_a_method_is_everywhere_with_no_other_file_edited(tmp_path: Path) -> None:
    """Its own test passes, a suite lists it, and its configs are written."""
    write_tree(tmp_path)
    environment = {**os.environ, 'PYTHONPATH': str(tmp_path), 'PYTHONDONTWRITEBYTECODE': '1', 'COLUMNS': '200'}

    def run(*words: str) -> str:
        options = dict(cwd=tmp_path, env=environment, capture_output=True, text=True)
        done = subprocess.run([sys.executable, *words], **options)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert re.search(r'\benergy\b', run('-m', 'mmdistill_dense', 'suite', 'list'))
    (tmp_path / 'configs/energy').mkdir()
    assert run('-c', CONFIG).endswith("{'energy': {'type': 'Energy', 'loss_weight': 10.0}}\n")
    assert ' passed' in run('-m', 'pytest', '-q', '-p', 'no:cacheprovider', 'tests/distillers/test_energy.py')
