"""Students that are strong today: three steps, a resume that is exact, and the student alone out of the checkpoint."""

import copy
from pathlib import Path

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import MODELS

from mmdistill_dense.apps.check import Options, check_config
from mmdistill_dense.apps.recipes.compose import methods
from mmdistill_dense.config.resolve import load_model, student_option
from tests import toys
from tests.every_config import named, place
from tests.zoo.narrow import LARGE, SIDE, narrow
from tests.zoo.networks import config
from tests.zoo.steps import step

PAIRS = {
    'pidnet_l_to_pidnet_s_cityscapes': 'cankd',
    'ddrnet_23_to_ddrnet_23-slim_cityscapes': 'cankd',
    'segnext_b_to_segnext_t_ade20k': 'cwd',
    'deeplabv3plus_r101_to_bisenetv2_cityscapes': 'mgd',
    'stdc2_to_stdc1_cityscapes': 'fitnet',
    'deeplabv3plus_r101_to_mobilenetv3_cityscapes': 'kd',
    'mask2former_swin-l_to_mask2former_r50_cityscapes': 'cankd',
    'yolox_l_to_s_coco': 'fgd',
}  # each with a method
SCORES = {'afdcd', 'at', 'cirkd', 'cwd', 'dist', 'fitnet', 'ifvd', 'kd', 'maskd', 'skd'}
STAGES = {'cankd', 'freekd', 'mgd', 'pcd'}
LEVELS = {'afdcd', 'at', 'cankd', 'cwd', 'defeat', 'fgd', 'fitnet', 'freekd', 'maskd', 'mgd', 'pcd', 'pkd'}
FIRST = 'ddrnet_23_to_ddrnet_23-slim_cityscapes'  # the quickest; the others are long tests
CHOSEN = [pytest.param(pair, marks=[] if pair == FIRST else pytest.mark.soak) for pair in PAIRS]


def test_every_method_that_fits_has_a_name() -> None:
    for pair in PAIRS:
        fitting = {one.method for one in named().values() if one.pair == pair}
        expected = STAGES if 'mask2former' in pair else LEVELS if 'yolox' in pair else SCORES | STAGES
        assert fitting == expected, pair
        assert fitting <= set(methods())


@pytest.mark.parametrize('pair', CHOSEN)
def test_three_steps_a_resume_and_the_plain_student(pair: str, tmp_path: Path) -> None:
    cfg = config(place(f'{PAIRS[pair]}/{pair}'))
    whole = toys.student_state(step(cfg, tmp_path / 'whole', 3, saves=True).model)
    step(cfg, tmp_path / 'parts', 2, saves=True)
    resumed = step(cfg, tmp_path / 'parts', 3, saves=True, resume=True)
    assert resumed.iter == 3 and not toys.differing(whole, toys.student_state(resumed.model))
    content = torch.load(next((tmp_path / 'parts').glob('*_3.pth')), weights_only=False)
    student = narrow(load_model(student_option(cfg.model), 'student'))
    MODELS.build(ConfigDict(student)).load_state_dict(content['state_dict'], strict=True)


@pytest.mark.parametrize('pair', CHOSEN)
def test_check_passes(pair: str) -> None:
    """Networks of full width on small generated pictures; the data set is not on this machine."""
    cfg = copy.deepcopy(config(place(f'{PAIRS[pair]}/{pair}')))
    side = LARGE if 'mobilenetv3' in pair else SIDE
    report = check_config(cfg, Options(size=(side, side), weights=False, batch=2, cost=False))
    assert not report.stopped
    assert [
        one.message for one in report.findings if one.level == 'error' and 'does not exist' not in one.message
    ] == []
