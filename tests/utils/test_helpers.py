"""Options out of their range, once for all methods; the process; what has left; colours of classes."""

import argparse
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from mmseg.datasets import BaseSegDataset

from mmdistill_dense.__main__ import main
from mmdistill_dense.apps.project.box_labels import find_box_data
from mmdistill_dense.apps.project.config_files import box_file, seg_file
from mmdistill_dense.apps.project.label_images import find_seg_data
from mmdistill_dense.apps.recipes.named import find_named
from mmdistill_dense.config.unknown_keys import check_known
from mmdistill_dense.registry import HOOKS
from mmdistill_dense.utils import process, required, validate
from mmdistill_dense.utils.colours import distinct_colours, palette_of
from mmdistill_dense.utils.process import SPINS, threads_asked_for, wait_briefly
from mmdistill_dense.utils.removed import REMOVED
from tests.isolation import ROOT
from tests.project.folders_of_data import LOADING, box_folder, seg_folder


def test_a_choice_names_the_option():
    validate.check_option('a', 'y', [None, 'y'])
    with pytest.raises(ValueError, match=r"^a must be one of None, 'y', got 'x'\.$"):
        validate.check_option('a', 'x', [None, 'y'])


def test_weights_are_named_together():
    validate.check_weights(a=0, b=1e-9)
    words = r'a, b must be >= 0 and not all 0, got .*, .*; loss_weight=0 leaves it out'
    for weights in (dict(a=0, b=0.0), dict(a=-1, b=2)):
        with pytest.raises(ValueError, match=words):
            validate.check_weights(**weights)


@pytest.mark.parametrize(('kind', 'right', 'wrong'), [
    ('counted', ['1', '12'], ['0', '-1', '1.5', 'a', '']),
    ('positive', ['1e-9', '2'], ['0', '-1', 'nan', 'inf', 'a']),
    ('fraction', ['0', '1', '0.5'], ['-0.1', '1.1', 'nan', 'a']),
])  # fmt: skip
def test_words_of_a_command_line(kind, right, wrong):
    read = getattr(validate, kind)
    assert [read(word) for word in right] == [float(word) for word in right]
    for word in wrong:
        with pytest.raises(argparse.ArgumentTypeError, match=f'^must be .*, got {word!r}$'):
            read(word)


# What is asked of the process: a stack that is there, threads that wait briefly, a sign of life in long steps


def test_lines_come_until_a_long_step_ends(monkeypatch, capsys) -> None:
    monkeypatch.setattr(process, 'EVERY', 0.01)
    written = ''
    with pytest.raises(KeyError), process.heartbeat('exporting'):
        while written.count('exporting …') < 2:
            time.sleep(0.01)
            written += capsys.readouterr().err
        raise KeyError
    capsys.readouterr()
    time.sleep(0.05)
    assert capsys.readouterr().err == ''


def test_a_missing_stack_is_answered_with_the_command(monkeypatch) -> None:
    required.require_stack()
    monkeypatch.setattr(required, 'find_spec', lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r'mmengine and mmcv. In its checkout run `make setup`'):
        required.require_stack()


@pytest.mark.parametrize(('setting', 'count'), [('3', 3), (' 4,2', 4), ('', 0), ('many', 0), (None, 0)])
def test_threads_that_the_shell_asks_for(monkeypatch: pytest.MonkeyPatch, setting: str | None, count: int) -> None:
    monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
    if setting is not None:
        monkeypatch.setenv('OMP_NUM_THREADS', setting)
    assert threads_asked_for() == count
    spins = {'GOMP_SPINCOUNT': SPINS}
    for chosen in ({'OMP_WAIT_POLICY': 'ACTIVE'}, {'GOMP_SPINCOUNT': '7'}, {}):
        wait_briefly(environment := dict(chosen))
        assert environment == (chosen or spins), 'what the user chose stays'


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


def nearest(colours: np.ndarray) -> float:
    """The smallest difference of two colours in CIE Lab, in which 2 can just be seen."""
    lab = cv2.cvtColor((colours / 255).astype(np.float32)[None], cv2.COLOR_RGB2LAB)[0]
    apart = np.linalg.norm(lab[:, None] - lab, axis=-1)
    return float(apart[~np.eye(len(lab), dtype=bool)].min())


@pytest.mark.parametrize(('classes', 'least'), [(2, 60), (11, 30), (30, 20), (150, 8)])
def test_classes_without_colours_get_distinct_ones(classes: int, least: float) -> None:
    names = [f'class {number}' for number in range(classes)]
    drawn = BaseSegDataset(metainfo={'classes': names}, lazy_init=True, test_mode=True, data_root='.').metainfo
    assert nearest(np.asarray(drawn['palette'])) < least, 'those that mmseg draws'
    for setting in (None, [], drawn['palette'], [[0, 0, 0]]):
        actual = palette_of(setting, classes)
        assert nearest(actual) > least and (actual == distinct_colours(classes)).all()
    palette = np.random.default_rng(0).integers(0, 255, (classes, 3)).tolist()
    assert palette_of(palette, classes).tolist() == palette
    assert len(palette_of(None, 0)) == 1 and len(distinct_colours(600)) == 600


def test_a_project_has_the_colours_of_its_classes(tmp_path: Path) -> None:
    seg = seg_file(find_seg_data(seg_folder(tmp_path / 'seg', (0, 1))), LOADING)
    box = box_file(find_box_data(box_folder(tmp_path / 'box')), LOADING, False, False)
    drawn, boxes = (Config.fromstring(text, '.py').train_dataloader.dataset.metainfo.palette for text in (seg, box))
    assert drawn == distinct_colours(2).tolist() and np.max(boxes, axis=1).min() > 200
