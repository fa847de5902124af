"""What is given by ``--cfg-options``."""

import argparse
from typing import Any

import pytest

from mmdistill_dense.apps.options import OptionsAction


def read(*words: str) -> dict[str, Any]:
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=OptionsAction)
    return parser.parse_args(['--cfg-options', *words]).cfg_options


@pytest.mark.parametrize(('text', 'value'), [
    ('extra pics (no labels)/a b', 'extra pics (no labels)/a b'),
    ('"my data"', 'my data'),
    ('3', 3),
    (' 1e-3', 1e-3),
    ('true', True),
    ('None', None),
    ('', ''),
    ('1,2', [1, 2]),
    ('[a, b]', ['a', 'b']),
    ('(1, 2)', (1, 2)),
    ('[(1,2),[x, y]]', [(1, 2), ['x', 'y']]),
    ('a=b', 'a=b'),
])  # fmt: skip
def test_values_are_as_written(text: str, value: Any) -> None:
    assert read(f'model.x={text}', 'y=1') == {'model.x': value, 'y': 1}


def test_a_word_without_a_value_is_named(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        read('data_root=my', 'data')
    assert '--cfg-options data: give KEY=VALUE; put quotes' in capsys.readouterr().err
