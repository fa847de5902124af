"""The recipe of ``new``: the same for student and teacher, whatever the names of their configs."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import PARAM_SCHEDULERS

from mmdistill_dense.apps.check import check_config
from mmdistill_dense.apps.project import training_plan as plan
from mmdistill_dense.apps.project.network_options import read_network
from mmdistill_dense.config.resolve import find_config
from mmdistill_dense.utils.literals import assignments
from tests.project.commands import FASTSCNN, RETINANET, SEGFORMER, call, own_network, read
from tests.project.folders_of_data import seg_folder

RTMDET = 'mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py'
TOOD = 'mmdet::tood/tood_r50_fpn_1x_coco.py'
SETR = 'mmseg::setr/setr_vit-l-mla_8xb1-160k_ade20k-512x512.py'
BEIT = 'mmseg::beit/beit-base_upernet_8xb2-160k_ade20k-640x640.py'


@pytest.mark.parametrize(('pictures', 'batch', 'steps'), [
    (10, 4, plan.LEAST_STEPS), (80, 4, plan.LEAST_STEPS), (367, 4, 9175), (205, 8, 2563), (10**6, 8, plan.MOST_STEPS),
])  # fmt: skip
def test_the_length_is_that_of_the_passes_within_limits(pictures: int, batch: int, steps: int) -> None:
    assert plan.length(pictures, batch) == steps


@pytest.mark.usefixtures('folder')
def test_a_config_that_only_inherits_another_gets_its_recipe() -> None:
    Path('my_student.py').write_text(f"_base_ = '{find_config(FASTSCNN)}'\ndefault_scope = 'mmseg'\n")
    named, mine = (plan.plan_training(read_network(n, '--student'), 100, 4, 40) for n in (FASTSCNN, 'my_student.py'))
    assert named == mine


def test_the_rate_falls_to_0_at_the_last_step() -> None:
    side = read_network(FASTSCNN, '--student')
    for steps in (1, 2, 20, 40, 2000):
        training = plan.plan_training(side, 100, 4, steps)
        parameter = torch.nn.Parameter(torch.zeros(1))
        optimizer = torch.optim.AdamW([parameter], lr=training.optim_wrapper['optimizer']['lr'])
        assert not any(option['by_epoch'] for option in training.param_scheduler)
        schedulers = [PARAM_SCHEDULERS.build({**option, 'optimizer': optimizer}) for option in training.param_scheduler]
        rates = []
        for _ in range(steps):
            rates.append(optimizer.param_groups[0]['lr'])
            optimizer.step()
            for scheduler in schedulers:
                scheduler.step()
        peak = rates.index(max(rates))
        assert abs(peak - steps // 20) <= 1 and max(rates) == pytest.approx(training.optim_wrapper['optimizer']['lr'])
        assert steps < 20 or rates[-1] < 0.02 * max(rates)


def test_a_rate_of_adam_holds_for_pretrained_weights() -> None:
    transformer, convolutions = read_network(SEGFORMER, '--teacher'), read_network(FASTSCNN, '--student')
    rates = {}
    for random in (True, False):
        transformer.random = convolutions.random = random
        both = [plan.plan_training(side, 100, 4, 40).optim_wrapper for side in (transformer, convolutions)]
        rates[random] = [wrapper['optimizer']['lr'] for wrapper in both]
        assert ('custom_keys' in both[0]['paramwise_cfg']) is not random
    assert rates == {True: [plan.RANDOM_RATE] * 2, False: [6e-5, plan.PRETRAINED_RATE]}
    wrapper = plan.plan_training(transformer, 100, 4, 40).optim_wrapper
    assert wrapper['paramwise_cfg']['custom_keys']['pos_block'] == {'decay_mult': 0.0}
    assert wrapper['paramwise_cfg']['norm_decay_mult'] == 0 and 'constructor' not in wrapper
    wrapper = plan.plan_training(read_network(BEIT, '--teacher'), 100, 4, 40).optim_wrapper
    assert wrapper['constructor'] == 'LayerDecayOptimizerConstructor'
    assert wrapper['paramwise_cfg']['layer_decay_rate'] == 0.9


@pytest.mark.parametrize('gpu', [True, False])
def test_half_precision_on_a_gpu(gpu: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A project may be written on another machine than the one that trains it."""
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: gpu)
    for name, takes in ((RETINANET, True), (TOOD, False)):
        training = plan.plan_training(read_network(name, '--student'), 100, 4, 40)
        text = assignments({'optim_wrapper': training.optim_wrapper})
        kind = Config.fromstring(text, '.py').optim_wrapper.type
        assert kind == ('AmpOptimWrapper' if gpu and takes else 'OptimWrapper')
        assert ('half precision on a GPU is left out' in training.note) is not takes


def test_a_rate_for_hundreds_of_pictures_does_not_hold() -> None:
    for name in (RTMDET, SETR):
        wrapper = plan.plan_training(read_network(name, '--student'), 100, 4, 40).optim_wrapper
        assert wrapper['optimizer']['lr'] == plan.PRETRAINED_RATE and 'custom_keys' not in wrapper['paramwise_cfg']


@pytest.mark.usefixtures('folder')
def test_weights_of_a_config_start_all_but_other_heads() -> None:
    seg_folder(Path('mine'))
    own_network("load_from = 'mine.pth'\n", classes=5)
    call('network.py', 'network.py', '--iters', '2', '--method', 'kd')
    assert read('control').load_from == read('teacher').load_from == str(Path('mine.pth').resolve())
    report = check_config('project/control.py')
    assert not report.stopped and not [finding.message for finding in report.findings if 'load_from' in finding.message]
    state, start = report.context.model.state_dict(), torch.load('mine.pth', weights_only=True)['state_dict']
    other = {name for name in state if name not in start or not torch.equal(state[name], start[name])}
    assert other and all('conv_seg' in name for name in other)
