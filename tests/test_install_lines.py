"""The guides' lines that install something, pasted into a shell with an empty environment; the README with a wheel.

``pip`` is uv there, which answers from the cache of `make setup`; mmcv is not compiled again where that has done it.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs_blocks import ROOT, Block, blocks, commands, inline
from tests.isolation import OWN
from tests.project.folders_of_data import label, picture, seg_folder

pytestmark = pytest.mark.soak

UV = Path(sys.prefix) / 'bin/uv'
PIP = """#!/bin/sh
[ "$1" != wheel ] || exec {python} -m pip "$@"
[ "$1" = install ] || exit 1
shift
exec {uv} pip install --python {venv} $DRY "$@"
"""
LINES = [block for block in [*blocks('bash'), *inline()] if re.search(r'\b(?:pip|mim) (?:install|wheel)\b', block.text)]
CLONE, WHEEL = ('git clone', 'mmdistill --version', 'LDFLAGS'), ('pip wheel', 'dist/', '$(ls mmdistill_dense-')


def text_of(word: str) -> str:
    (text,) = [block.text for block in LINES if word in block.text]
    return text.replace('<this repository>', 'source/mmdistill_dense')


def short(block: Block) -> str:
    """The text of a block of the README, with short trainings."""
    text = re.sub('(?<=iter_)[0-9]+', '12', block.text)
    if block.language == 'python':
        return f'python - <<END\n{text}END'
    return text.replace('mmdistill new ', 'mmdistill new --iters 12 --batch 2 --size 128 128 --random-weights ')


class Shell:
    """A folder with the repository, and an empty environment whose ``pip`` is uv."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.venv = folder, folder / 'venv'
        clone = folder / 'source/mmdistill_dense'
        clone.mkdir(parents=True)
        sources = [str(ROOT / name) for name in OWN - {'.git', 'tests'} if (ROOT / name).exists()]
        subprocess.run(['cp', '-r', *sources, clone], check=True)
        subprocess.run([UV, 'venv', '-q', '--python', sys.executable, self.venv], check=True)
        pip = folder / 'bin/pip'  # before the one that mim installs
        pip.parent.mkdir()
        pip.write_text(PIP.format(python=sys.executable, uv=UV, venv=self.venv))
        pip.chmod(0o755)

    def paste(self, text: str, place: str = '.', **variables: str) -> str:
        """Run a text in a folder; a command that fails ends it, and fails the test."""
        kept = {name: value for name, value in os.environ.items() if name not in ('PYTHONPATH', 'VIRTUAL_ENV')}
        path = f'{self.folder}/bin:{self.venv}/bin:{kept["PATH"]}'
        links = kept.get('PIP_FIND_LINKS', '').split()  # uv reads no variable of pip
        source = {'UV_DEFAULT_INDEX': kept['PIP_INDEX_URL']} if 'PIP_INDEX_URL' in kept else {}
        if not links:
            source['UV_TORCH_BACKEND'] = 'cpu'  # as in `make setup`; else gigabytes are fetched
        if 'LDFLAGS' in text:
            links += map(str, Path(kept['MMDISTILL_WHEELS']).glob('*'))
        environment = {**kept, **source, 'PATH': path, 'UV_FIND_LINKS': ','.join(links), 'DRY': '', **variables}
        command = ['bash', '-euo', 'pipefail', '-c', text]
        done = subprocess.run(command, cwd=self.folder / place, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f'{text}\n{done.stdout[-3000:]}{done.stderr[-3000:]}'
        return done.stdout


def test_the_lines_for_a_clone(tmp_path: Path) -> None:
    """README's are enough for segmentation, two more for detection; all others find what they name, and it fits."""
    shell, folder = Shell(tmp_path), 'mmdistill_dense'
    git = 'git -c user.name=me -c user.email=me@here -c init.defaultBranch=main'
    shell.paste(f'{git} init -q; {git} add -A; {git} commit -qm all', 'source/mmdistill_dense')
    first, own = text_of('git clone'), text_of('mmdistill --version')
    plain = [[command.words for command in commands(text)] for text in (first, own)]
    assert plain[0][-2:] == plain[1][:-1]  # they are the same
    shell.paste(first)
    told = shell.paste('mmdistill --version; python -c "import mmseg.models"', folder)
    assert 'mmseg: onedl-mmsegmentation' in told and 'operations of mmcv: missing' in told
    shell.paste(text_of('LDFLAGS'), folder)
    told = shell.paste('mmdistill --version; python -c "import mmdet.models"', folder)
    assert 'operations of mmcv: compiled' in told
    others = [block for block in LINES if not any(word in block.text for word in (*CLONE, *WHEEL))]
    assert len(others) > 10
    for block in others:
        # Wheels for CUDA, which `mim install` looks for, need a GPU.
        lines = [line.partition('&& pre-commit')[0] for line in block.text.splitlines() if 'pip install' in line]
        shell.paste('\n'.join(lines), folder, DRY='--dry-run' if 'torch' in lines[0] else '')
    told = shell.paste(f'{UV} pip check --python {shell.venv} 2>&1 || true')
    assert told.count('The package') == told.count('`timm` requires `torchvision`') == 1, told  # it has --no-deps


def test_the_readme_works_with_the_wheel_alone(tmp_path: Path) -> None:
    """Its commands, and its Python for the student and for a config of the reader's own."""
    shell = Shell(tmp_path)
    shell.paste(text_of('pip wheel'), 'source/mmdistill_dense')
    shutil.copytree(tmp_path / 'source/mmdistill_dense/dist', tmp_path / 'dist')
    (wheel,) = (tmp_path / 'dist').glob('*.whl')
    shutil.copy(wheel, tmp_path)
    shutil.rmtree(tmp_path / 'source')
    shell.paste(text_of('$(ls mmdistill_dense-'))
    message = shell.paste(f'{text_of("dist/")}\nls configs; mmdistill check --help')
    assert '_base_' in message and 'METHOD:PAIR' in message
    for number in range(12):
        picture(tmp_path / f'leaves/images/train/{number}.jpg', number)
        label(tmp_path / f'leaves/labels/train/{number}.png', seed=number)
    seg_folder(tmp_path / 'leaves', splits=['val'])
    picture(tmp_path / 'photos/a.jpg')
    picture(tmp_path / 'photo.jpg')
    readme = [block for block in [*blocks('bash', 'python'), *inline()] if block.guide == ROOT / 'README.md']
    for block in readme:
        if 'distil_leaves' in block.text:
            shell.paste(short(block))
    for name in ('distil_leaves/report.html', 'predictions/labels/photos/a.png', 'student.onnx'):
        assert (tmp_path / name).is_file(), name
    (config_text,) = [block.text for block in readme if "_base_ = ['./my_student.py']" in block.text]
    (tmp_path / 'my_distilled.py').write_text(config_text)
    for name, config in (('student', 'control'), ('teacher', 'teacher')):
        (tmp_path / f'my_{name}.py').write_text(f"_base_ = './distil_leaves/{config}.py'\nwork_dir = 'mine'\n")
    (tmp_path / 'my_teacher.pth').symlink_to(next((tmp_path / 'distil_leaves/work/teacher').rglob('*.pth')))
    trained = [block.text for block in readme if block.language == 'inline' and 'my_distilled.py' in block.text]
    assert sorted(text.split()[0] for text in trained) == ['mim', 'mmdistill']
    for text in trained:
        shell.paste(text)
        shutil.rmtree(tmp_path / 'mine')  # it was written
