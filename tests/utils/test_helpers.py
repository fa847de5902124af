"""Words of a command line; what a process needs; what has left; colours of classes."""

import argparse

import cv2
import numpy as np
import pytest

from mmdistill_dense.__main__ import main
from mmdistill_dense.apps.recipes.named import find_named
from mmdistill_dense.config.unknown_keys import check_known
from mmdistill_dense.registry import HOOKS
from mmdistill_dense.utils import lazy, validate
from mmdistill_dense.utils.colours import distinct_colours, palette_of
from mmdistill_dense.utils.files import without_nan
from mmdistill_dense.utils.version import REMOVED
from tests.isolation import ROOT


@pytest.mark.parametrize(('kind', 'right', 'wrong'), [
    ('counted', ['1', '12'], ['0', '-1', '1.5', 'a', '']),
    ('fraction', ['0', '1', '0.5'], ['-0.1', '1.1', 'nan', 'a']),
])  # fmt: skip
def test_words_of_a_command_line(kind, right, wrong):
    read = getattr(validate, kind)
    assert [read(word) for word in right] == [float(word) for word in right]
    for word in wrong:
        with pytest.raises(argparse.ArgumentTypeError, match=f'^must be .*, got {word!r}$'):
            read(word)


def test_numbers_that_json_lacks_become_null():
    assert without_nan({'a': [float('inf'), float('nan'), 1.0]}) == {'a': [None, None, 1.0]}


def test_a_missing_stack_is_answered_with_the_command(monkeypatch, capsys) -> None:
    lazy.require_stack()
    monkeypatch.setattr(lazy, 'find_spec', lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r'mmengine and mmcv. In its checkout run `make setup`'):
        lazy.require_stack()
    assert main(['taps', 'afdcd:toy']) == 2
    assert 'ERROR    mmdistill_dense needs mmengine' in capsys.readouterr().err


def test_what_has_left_answers_with_what_to_do_instead(tmp_path, monkeypatch, capsys):
    """Wherever its name is given, and each stands on the page."""
    page = (ROOT / 'docs/removed.md').read_text()
    assert not [name for name in REMOVED if f'`{name}`' not in page] and len(page.split()) <= 900
    for name in ('shine', 'run --shine', 'Shiner', 'accelerate.shine'):
        monkeypatch.setitem(REMOVED, name, 'polish by hand.')
    assert main(['shine']) == 2
    assert capsys.readouterr().err == 'ERROR    shine has left: polish by hand. (docs/removed.md)\n'
    with pytest.raises(SystemExit, match='2'):
        main(['run', '--shine=3', 'folder'])
    assert 'run --shine has left: polish by hand.' in capsys.readouterr().err
    with pytest.raises(KeyError, match='Shiner has left: polish by hand'):
        HOOKS.build(dict(type='mmdistill_dense.Shiner'))
    with pytest.raises(KeyError, match='^.shine:pair: shine has left: polish by hand'):
        find_named('shine:pair')
    assert main(['new', '--data', str(tmp_path), '--student', 'x', '--teacher', 'y', '--method', 'shine']) == 2
    assert capsys.readouterr().err == 'ERROR    --method shine: shine has left: polish by hand. (docs/removed.md)\n'
    with pytest.raises(TypeError, match='accelerate.shine has left: polish by hand'):
        check_known('accelerate', {'shine': True}, ['bf16'])


@pytest.mark.parametrize(('classes', 'least'), [(2, 60), (150, 8)])
def test_classes_without_colours_get_distinct_ones(classes: int, least: float) -> None:
    """By their distance in CIE Lab, in which 2 can just be seen."""
    for setting in (None, [], [[0, 0, 0]]):
        lab = cv2.cvtColor((palette_of(setting, classes) / 255).astype(np.float32)[None], cv2.COLOR_RGB2LAB)[0]
        apart = np.linalg.norm(lab[:, None] - lab, axis=-1)
        assert apart[~np.eye(classes, dtype=bool)].min() > least
    palette = np.random.default_rng(0).integers(0, 255, (classes, 3)).tolist()
    assert palette_of(palette, classes).tolist() == palette
    assert len(palette_of(None, 0)) == 1 and len(distinct_colours(600)) == 600
