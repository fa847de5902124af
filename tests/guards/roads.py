"""What guards are asked of: a run described by facts; the warning of each faulty config."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from mmengine.config import Config

from mmdistill_dense.apps.check import Options
from mmdistill_dense.apps.check.context import CheckContext


def subject(**facts: Any) -> CheckContext:
    made = CheckContext(Config(facts.pop('config', {})), facts.pop('options', Options()))
    for name, value in facts.items():
        setattr(made, name, value)
    return made


@contextmanager
def warnings_logged() -> Iterator[list[str]]:
    """Collect the warnings of all loggers; mmengine's do not propagate."""
    messages: list[str] = []
    handle = logging.Logger.handle

    def collect(logger: logging.Logger, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING:
            messages.append(record.getMessage())
        handle(logger, record)

    with mock.patch.object(logging.Logger, 'handle', collect):
        yield messages


WARNINGS = {
    'batch of another rate': 'the learning rate is for auto_scale_lr.base_batch_size=16',
    'optimizer of another kind': 'trains it with AdamW at lr 6e-05, this config with SGD',
    'rate beyond the end': 'param_scheduler.0 (PolyLR) ends at 40000, but the run ends at 1 iterations',
    'checkpoint beyond the end': 'default_hooks.checkpoint has the interval 500',
    'early stop of no metric': "custom_hooks.0.monitor='mIou': val_evaluator gives no such score",
    'classes of validation': 'val_dataloader.dataset has the classes',
    'ignored label that counts': 'the heads of the student ignore the label 11, the metric of val_evaluator does not',
    'frozen at random': "no file is named for the student's backbone",
    'sum on another map': 'model.distillers.mgd.alpha=2e-05 multiplies a sum over 128x16x12',
    'padded pictures': 'model.student.data_preprocessor pads pictures of 64x64 to 128x96',
    'option without effect': 'model.student.backbone.frozen_stages=0 has no effect',
    'random teacher': 'model.teacher has random weights (allow_random=True): they teach nothing.',
    'schedule beyond the end': 'distillers.mgd.schedule: warmup is iteration 1000, but the weight ends at iteration 1',
}
