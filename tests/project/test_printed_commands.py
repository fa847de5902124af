"""Commands that are printed with names in them do what they say, also with blanks, quotes and other letters."""

import argparse
import ast
import json
import re
import shlex
import shutil
from itertools import pairwise
from pathlib import Path

import pytest

from mmdistill_dense.__main__ import Parser, fill
from mmdistill_dense.apps.project.box_labels import find_box_data
from mmdistill_dense.apps.project.label_images import find_seg_data
from mmdistill_dense.apps.project.run_project import open_project
from tests.project.commands import project
from tests.project.folders_of_data import label, labelled, picture

ROOT = Path(__file__).parents[2]
NAMES = ("l'été 数据", 'say "x"', '$HOME;(x) & `y`', '-x', 'a#b')
names = pytest.mark.parametrize('name', NAMES)

pytestmark = pytest.mark.usefixtures('folder')


def options_of(command: str) -> argparse.Namespace:
    """The options of a printed command, as a shell and this program read it."""
    _, program, *words = shlex.split(command)
    return fill(Parser(prog=f'mmdistill {program}'), program).parse_args(words)


def new_options(words: str) -> argparse.Namespace:
    return options_of(f'mmdistill new --student s --teacher t --data d {words}')


@pytest.mark.parametrize('name', ['a b', '数据 & $HOME'])
def test_new_names_the_folder_to_run(name: str, capsys: pytest.CaptureFixture) -> None:
    project('--out', name)
    command = re.search('^next +(.*)$', capsys.readouterr().out, re.MULTILINE)
    assert command and options_of(command[1]).folder == Path(name)


@names
def test_moved_data_are_named_in_their_file(name: str, made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / 'project')
    moved, data = tmp_path / f'new {name}', tmp_path / 'project/data.py'
    shutil.copytree(made.parent / 'mine', moved)
    text, before = data.read_text(), repr(str(made.parent / 'mine'))
    data.write_text(text.replace(before, repr(str(tmp_path / name / name))))
    with pytest.raises(FileNotFoundError, match='no such folder. If the data were moved, write') as error:
        open_project(tmp_path / 'project')
    assert str(error.value).startswith(f'{data}: folder.data_root = ')
    data.write_text(text.replace(before, repr(f'{moved}/')))
    assert open_project(tmp_path / 'project')


@names
def test_patterns_that_are_proposed_are_read(name: str) -> None:
    for number in range(4):
        picture(Path(f'mine/{name}/{number}.jpg'), number)
        label(Path(f'mine/drawn {name}/{number}_x.png'))
    with pytest.raises(ValueError, match=r'Try --images=') as error:
        find_seg_data(Path('mine'))
    words = re.search(r'Try (.*): they pair 4 pictures', str(error.value))
    assert words
    options = new_options(words[1])
    assert options.images == f'{name}/*.jpg' and options.labels == f'drawn {name}/*_x.png'
    assert shlex.split(words[1]) == [f'--images={options.images}', f'--labels={options.labels}']


@pytest.mark.parametrize('task', ['seg', 'det'])
@names
def test_the_folder_without_labels_is_named(name: str, task: str, tmp_path: Path) -> None:
    root = tmp_path / 'mine'
    for number in range(8):
        picture(root / f'images/{name}/{number}.jpg', number)
        if number < 4 and task == 'seg':
            label(root / f'labels/{name}/{number}.png')
    if task == 'det':
        content = labelled(root, [f'images/{name}/{number}.jpg' for number in range(4)])
        (root / 'labels.json').write_text(json.dumps(content))
    data = (find_seg_data if task == 'seg' else find_box_data)(root)
    (words,) = (note.partition(' teaches on')[0] for note in data.notes if note.startswith('--unlabelled'))
    assert Path(new_options(words).unlabelled) == root / 'images' / name


COMMAND = re.compile(r'\b(mmdistill(?: suite)? [a-z]+|mim [a-z]+|(?:ln|mkdir|rm|cp|mv)(?: -[a-z]+)?(?: [A-Z_]+)?) $')
QUOTED = re.compile(r'(shlex\.)?quote\(|path$')  # the path of `suite table` was quoted before


def test_no_command_has_a_name_without_quotes() -> None:
    """Each f-string in which a value follows a command, in the whole package."""
    values = {}
    texts = {path: path.read_text(encoding='utf-8') for path in (ROOT / 'mmdistill_dense').rglob('*.py')}
    for path in (path for path, text in texts.items() if re.search(r'\b(mmdistill|mim|ln|mkdir|rm|cp|mv) .*\{', text)):
        strings = [node for node in ast.walk(ast.parse(texts[path])) if isinstance(node, ast.JoinedStr)]
        for before, value in (pair for node in strings for pair in pairwise(node.values)):
            command = COMMAND.search(str(before.value)) if isinstance(before, ast.Constant) else None
            if command and isinstance(value, ast.FormattedValue):
                values[path.name, command[1], value.lineno] = ast.unparse(value.value)
    assert {command for _, command, _ in values} >= {'mmdistill run', 'mmdistill suite table'}
    assert {key: value for key, value in values.items() if not QUOTED.match(value)} == {}
