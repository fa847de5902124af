"""Optimizer and schedule of a zoo config, scaled to other data."""

import pytest
from mmengine.config import Config

from mmdistill_dense.apps.project.zoo_schedule import MIN_STEPS, Training, batch_of, scaled_training
from mmdistill_dense.config.resolve import find_config

SEGFORMER = 'mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py'
RTMDET = 'mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py'
RETINANET = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'
LSJ = 'mmdet::retinanet/retinanet_r18_fpn_8xb8-amp-lsj-200e_coco.py'


def scaled(name: str, pictures: int, batch: int, steps: int | None = None) -> Training:
    return scaled_training(Config.fromfile(find_config(name)), name, pictures, batch, steps)


def test_warm_up_and_decay_keep_their_order_in_a_short_run() -> None:
    found = scaled(SEGFORMER, 200, 4, 1000)
    warm, poly = found.param_scheduler
    assert (warm['begin'], warm['end'], poly['begin'], poly['end']) == (0, 100, 100, 1000)
    assert found.steps == 1000 and found.optim_wrapper['optimizer']['type'] == 'AdamW'
    assert found.optim_wrapper['paramwise_cfg']['custom_keys']['head'] == {'lr_mult': 10.0}


def warming(*schedulers: dict, steps: int = 20) -> list[dict]:
    """The schedulers of 1000 steps, in a run of ``steps``."""
    optimizer = dict(optimizer=dict(type='SGD', lr=0.01))
    config = Config(dict(optim_wrapper=optimizer, train_cfg=dict(max_iters=1000), param_scheduler=list(schedulers)))
    return scaled_training(config, 'own.py', 100, 2, steps).param_scheduler


def test_a_warm_up_alone_stays_short_and_a_decay_alone_stays_whole() -> None:
    """A distiller with `balance` measures in the first quarter of the run, which a warm-up must not fill."""
    rising = dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500)
    assert [one['end'] for one in warming(rising)] == [2]
    assert [one['end'] for one in warming({**rising, 'end': 1000}, steps=1000)] == [100]
    falling = dict(type='LinearLR', start_factor=1.0, end_factor=0.01, by_epoch=False, begin=0, end=1000)
    assert [one['end'] for one in warming(falling)] == [20]
    assert [one['end'] for one in warming(falling, rising)] == [20, 2]


def test_the_rate_of_adamw_follows_the_root_of_the_batch_and_that_of_sgd_the_batch() -> None:
    assert scaled(SEGFORMER, 200, 4).optim_wrapper['optimizer']['lr'] == pytest.approx(6e-5 / 2)
    assert scaled(RETINANET, 200, 4).optim_wrapper['optimizer']['lr'] == pytest.approx(0.01 / 4)


def test_epochs_become_steps() -> None:
    found = scaled(RETINANET, 200, 4, 1200)
    decay = found.param_scheduler[1]
    assert decay['milestones'] == [800, 1100], 'at the epochs 8 and 11 of 12'
    assert all(one['by_epoch'] is False for one in found.param_scheduler)


def test_a_cosine_in_epochs_keeps_its_period_and_ema_stays() -> None:
    found = scaled(RTMDET, 200, 4, 2000)
    cosine = found.param_scheduler[1]
    assert cosine['T_max'] == cosine['end'] - cosine['begin']
    assert cosine['end'] == 2000 and 'convert_to_iter_based' not in cosine
    assert [hook['type'] for hook in found.hooks] == ['EMAHook']


def test_the_length_is_that_of_as_many_passes_within_limits() -> None:
    assert scaled(RETINANET, 100, 4).steps == MIN_STEPS
    assert scaled(RETINANET, 20_000, 4).steps == pytest.approx(12 * 20_000 / 4, rel=0.01)
    assert scaled(SEGFORMER, 10**6, 16).steps == 160_000


def test_repeated_data_count_as_passes() -> None:
    config = Config.fromfile(find_config(LSJ))
    times = config.train_dataloader.dataset.times
    assert times > 1
    assert scaled(LSJ, 4000, 8).steps == pytest.approx(times * config.train_cfg.max_epochs * 4000 / 8, rel=0.01)


def test_epochs_of_unknown_data_count_as_passes() -> None:
    config = Config.fromfile(find_config(RETINANET))
    config.train_dataloader.dataset.type = 'MyDataset'
    found = scaled_training(config, 'mine.py', 20_000, 4)
    assert found.steps == 12 * 20_000 / 4
    assert found.param_scheduler[0]['end'] == 500


def test_half_precision_is_left_out() -> None:
    assert scaled(LSJ, 200, 4).optim_wrapper['type'] == 'OptimWrapper'


@pytest.mark.parametrize(('name', 'batch'), [(SEGFORMER, 16), (RTMDET, 256), (RETINANET, 16)])
def test_the_batch_of_all_gpus_is_known(name: str, batch: int) -> None:
    assert batch_of(Config.fromfile(find_config(name)), name) == batch


def test_a_config_that_does_not_train_is_refused() -> None:
    with pytest.raises(ValueError, match=r'mine.py: the config has no optim_wrapper.optimizer'):
        scaled_training(Config({'model': {}}), 'mine.py', 10, 2)
