"""What has left answers with what to do instead, wherever its name is given; each row stands on the page."""

from pathlib import Path

import pytest

from mmdistill_dense.__main__ import main
from mmdistill_dense.config.unknown_keys import check_known
from mmdistill_dense.registry import HOOKS
from mmdistill_dense.utils.removed import REMOVED

PAGE = Path(__file__).parents[2] / 'docs/removed.md'


@pytest.fixture
def row(monkeypatch):
    for name in ('shine', 'run --shine', 'Shiner', 'accelerate.shine'):
        monkeypatch.setitem(REMOVED, name, 'polish by hand.')


def test_commands_and_options(row, capsys):
    assert main(['shine']) == 2
    assert capsys.readouterr().err == 'ERROR    shine has left: polish by hand. (docs/removed.md)\n'
    with pytest.raises(SystemExit, match='2'):
        main(['run', '--shine=3', 'folder'])
    assert 'run --shine has left: polish by hand.' in capsys.readouterr().err


def test_classes_and_keys(row):
    with pytest.raises(KeyError, match='Shiner has left: polish by hand'):
        HOOKS.build(dict(type='mmdistill_dense.Shiner'))
    with pytest.raises(TypeError, match='accelerate.shine has left: polish by hand'):
        check_known('accelerate', {'shine': True}, ['bf16'])


def test_each_name_stands_on_the_page():
    text = PAGE.read_text()
    assert not [name for name in REMOVED if f'`{name}`' not in text]
    assert len(text.split()) <= 700
