"""A row of another length: what is counted in steps is scaled, and what may be a length and is not known is refused."""

from typing import Any

import pytest
from mmengine.config import Config

from mmdistill_dense.apps.suite.configs import fit


def config(**changes: Any) -> Config:
    """A run of 10 steps with a schedule of each kind."""
    schedules = [
        dict(type='MultiStepLR', milestones=[4, 9, 20], end=10),
        dict(type='CosineAnnealingLR', T_max=7, begin=3, end=10),
        dict(type='LinearLR', begin=0, end=3, total_iters=0),
    ]
    distillers = dict(kd=dict(schedule=dict(warmup=2, ramp_down=(0, 0.5)), learn=dict(max_iters=10)))
    given = dict(
        train_cfg=dict(max_iters=10, val_interval=5),
        param_scheduler=schedules,
        default_hooks=dict(checkpoint=dict(interval=10), logger=dict(interval=1)),
        model=dict(distillers=distillers, unlabelled=dict(start=1, ratio=10), student=dict(steps=10)),
    )
    return Config({**given, **changes})


@pytest.mark.parametrize(
    ('factor', 'loop', 'milestones', 'waves', 'warmup', 'start'),
    [(2, (20, 10), [8, 18, 40], (14, 6, 20), 4, 2), (0.5, (5, 2), [2, 4, 10], (3, 2, 5), 1, 1),
     (0.1, (1, 1), [1, 1, 2], (1, 1, 1), 1, 1)],
)  # fmt: skip
def test_what_is_counted_in_steps_is_scaled(
    factor: float, loop: tuple, milestones: list, waves: tuple, warmup: int, start: int
) -> None:
    """A milestone stays before the end, and a wave ends with its schedule."""
    found = config()
    fit(found, factor, 'x')
    assert tuple(found.train_cfg.values()) == loop
    first, second, third = found.param_scheduler
    assert first.milestones == milestones and (second.T_max, second.begin, second.end) == waves
    assert (third.begin, third.total_iters) == (0, 0)
    kd = found.model.distillers.kd
    assert (kd.schedule.warmup, tuple(kd.schedule.ramp_down), kd.learn.max_iters) == (warmup, (0, 0.5), 10)
    assert (found.model.unlabelled, found.model.student) == (dict(start=start, ratio=10), dict(steps=10))
    assert (found.default_hooks.checkpoint.interval, found.default_hooks.logger.interval) == (10, 1)


@pytest.mark.parametrize(('changes', 'key'), [
    (dict(train_cfg=dict(max_epochs=4, dynamic_intervals=[[3, 1]])), 'train_cfg.dynamic_intervals.0.0=3'),
    (dict(param_scheduler=dict(type='OneCycleLR', restart=10)), 'param_scheduler.restart=10'),
    (dict(custom_hooks=[dict(type='X', start_from=3)]), 'custom_hooks.0.start_from=3'),
    (dict(optim_wrapper=dict(warm_steps=10)), 'optim_wrapper.warm_steps=10'),
    (dict(model=dict(distillers=dict(kd=dict(last_step=0, max_iters=10)))), 'model.distillers.kd.max_iters=10'),
])  # fmt: skip
def test_what_may_be_a_length_is_refused(changes: dict[str, Any], key: str) -> None:
    with pytest.raises(ValueError, match=f'methods.x.length: {key} looks like a length in a run of'):
        fit(config(**changes), 2, 'methods.x.length')
