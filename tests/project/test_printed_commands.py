"""Commands that are printed with names in them do what they say, also with blanks, quotes and other letters."""

import argparse
import ast
import re
import shlex
import shutil
from itertools import pairwise
from pathlib import Path

import pytest

from mmdistill_dense.__main__ import Parser, fill
from mmdistill_dense.apps.project.label_images import find_seg_data
from mmdistill_dense.apps.project.run_project import open_project
from tests.project.folders_of_data import label, picture

ROOT = Path(__file__).parents[2]
NAMES = ('a b', "l'été", 'say "x"', '数据', '$HOME', 'a;b', '(x) & y', '`x`', '-x', 'a#b')
PLACES = [name for name in NAMES if not {*'\'"'} & {*name}]  # a folder of configs has no quotes
names, places = pytest.mark.parametrize('name', NAMES), pytest.mark.parametrize('name', PLACES)

pytestmark = pytest.mark.usefixtures('folder')


def options_of(command: str) -> argparse.Namespace:
    """The options of a printed command, as a shell and this program read it."""
    _, program, *words = shlex.split(command)
    return fill(Parser(prog=f'mmdistill {program}'), program).parse_args(words)


def new_options(words: str) -> argparse.Namespace:
    return options_of(f'mmdistill new --student s --teacher t --data d {words}')


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
