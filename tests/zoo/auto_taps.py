"""What ``student_tap='auto'`` chooses in networks of the zoo: the table of auto_taps.md beside this file.

``python -m tests.zoo.auto_taps`` writes the table anew; it takes a minute.
"""

import re
from functools import cache, partial
from pathlib import Path

from mmengine.registry import DefaultScope

from mmdistill_dense.config.resolve import load_model
from mmdistill_dense.networks.auto_taps import Chosen, Found, discover, pair_taps
from mmdistill_dense.networks.building import build_network
from mmdistill_dense.utils.process import quiet
from tests.zoo.every_network import names as every_name

PAGE = Path(__file__).with_suffix('.md')


@cache
def names() -> tuple[str, ...]:
    """The networks of the page, segmentors first: a line begins with the name of a config's file."""
    files = {Path(name).stem: name for name in reversed([*every_name()])}
    return tuple(files[stem] for stem in re.findall(r'^\| `(.+?)`', shown(), re.MULTILINE))


@cache
def found(name: str, trains: bool = False) -> Found:
    """The places of a network by its config's name, at its training size."""
    with quiet():
        config = load_model(dict(cfg=name), 'model')
        size = (config.model.get('data_preprocessor') or {}).get('size')
        with DefaultScope.overwrite_default_scope(config.scope):
            return discover(partial(build_network, config, pretrained=False), size, trains)


def with_itself(name: str) -> Chosen:
    """The pairs of a network as student and teacher."""
    return pair_taps(found(name, trains=True), found(name))


def row(name: str) -> str:
    """A line of the table."""
    chosen = with_itself(name)
    taps = ', '.join(f'`{pair.student.tap}`' for pair in chosen.pairs)
    strides = ', '.join(str(pair.student.stride) for pair in chosen.pairs)
    notes = '; '.join(note.removeprefix('student: ') for note in chosen.notes if not note.startswith('teacher: '))
    return f'| `{Path(name.partition("::")[2]).stem}` | {taps} | {strides} | {notes or "-"} |'


def table() -> str:
    """The whole table."""
    lines = ['| network | taps | strides | left out |', '|---|---|---|---|', *map(row, names())]
    return '\n'.join(lines) + '\n'


def shown() -> str:
    """The table as the page shows it."""
    return PAGE.read_text(encoding='utf-8')


if __name__ == '__main__':
    PAGE.write_text(table(), encoding='utf-8')
