"""``student_tap='auto'`` in networks of the zoo: taps are chosen, those of auto_taps.md.

``python -m tests.zoo.test_auto_taps`` writes the table of auto_taps.md anew; it takes a minute.
"""

import re
from functools import cache, partial
from pathlib import Path

import pytest
from mmengine.registry import DefaultScope

from mmdistill_dense.config.resolve import load_model
from mmdistill_dense.networks.auto_taps import DiscoveredTaps, discover, pair_taps
from mmdistill_dense.networks.building import build_network
from mmdistill_dense.utils.process import quiet
from tests.zoo.networks import config_names as every_name

PAGE = Path(__file__).with_name('auto_taps.md')


@cache
def names() -> tuple[str, ...]:
    """The networks of the page, segmentors first: a line begins with the name of a config's file."""
    files = {Path(name).stem: name for name in reversed([*every_name()])}
    return tuple(files[stem] for stem in re.findall(r'^\| `(.+?)`', shown(), re.MULTILINE))


@cache
def found(name: str, trains: bool = False) -> DiscoveredTaps:
    """The places of a network by its config's name, at its training size."""
    with quiet():
        config = load_model(dict(cfg=name), 'model')
        size = (config.model.get('data_preprocessor') or {}).get('size')
        with DefaultScope.overwrite_default_scope(config.scope):
            return discover(partial(build_network, config, pretrained=False), size, trains)


def row(name: str) -> str:
    """A line of the table, with the network as student and as teacher."""
    chosen = pair_taps(found(name, trains=True), found(name))
    taps = ', '.join(f'`{pair.student.tap}`' for pair in chosen.pairs)
    strides = ', '.join(str(pair.student.stride) for pair in chosen.pairs)
    notes = '; '.join(note.removeprefix('student: ') for note in chosen.notes if not note.startswith('teacher: '))
    return f'| `{Path(name.partition("::")[2]).stem}` | {taps} | {strides} | {notes or "-"} |'


def shown() -> str:
    """The table as the page shows it."""
    return PAGE.read_text(encoding='utf-8')


LONG, LONGEST = pytest.mark.soak, pytest.mark.zoo  # `make test-zoo` has all of them
EVERY_NAME = [
    pytest.param(name, marks=LONGEST if number % 4 else [LONG, LONGEST]) for number, name in enumerate(names())
]


def test_the_page_has_every_network() -> None:
    assert len({*names()}) == len(names()) == len(shown().splitlines()) - 2 >= 54


@pytest.mark.parametrize('name', EVERY_NAME)
def test_the_page_shows_what_is_chosen(name: str) -> None:
    assert row(name) in shown().splitlines()


DEEPLAB, DDRNET, PIDNET = 'deeplabv3plus_r101-d8_4xb2-80k_cityscapes-512x1024', 'ddrnet_23', 'pidnet-l'
BRANCHES = {
    ('pidnet-s', PIDNET): '0 0, 2 2, 1 1, i_head.act i_head.act',
    ('pidnet-s', DEEPLAB): '1 3, i_head.act sep_bottleneck',
    ('deeplabv3_r18-d8_4xb2-80k_cityscapes-512x1024', PIDNET): '3 1, bottleneck i_head.act',
    ('ddrnet_23-slim', PIDNET): '1 1, head i_head.act',
    ('bisenetv2_fcn_4xb4-160k', DEEPLAB): '0 3, convs sep_bottleneck',
    ('stdc1_4xb12', 'bisenetv2_fcn_4xb4-160k'): '3 0, convs convs',
    ('segnext_mscan-t', 'segnext_mscan-l'): '1 1, 2 2, 3 3, align align',
}
SHORT = ('pidnet-s', PIDNET)


@pytest.mark.parametrize('pair', [pytest.param(branch, marks=() if branch == SHORT else LONG) for branch in BRANCHES])
def test_branches_are_compared_where_they_have_the_same_task(pair: tuple[str, str]) -> None:
    """Branch by branch with a backbone of the same class; with another the map that the scores are made of."""
    student, teacher = (next(name for name in sorted(every_name(), key=len) if f'/{stem}' in name) for stem in pair)
    chosen = pair_taps(found(student, trains=True), found(teacher))
    texts = [f'{pair.student.tap} {pair.teacher.tap}' for pair in chosen.pairs]
    short = [text.replace('backbone[', '').replace(']', '').replace('decode_head.', '') for text in texts]
    assert ', '.join(short) == BRANCHES[pair]
    assert ('branches of' in str(chosen.notes)) == (len(short) == 2)


if __name__ == '__main__':
    lines = ['| network | taps | strides | left out |', '|---|---|---|---|', *map(row, names())]
    PAGE.write_text('\n'.join(lines) + '\n', encoding='utf-8')
