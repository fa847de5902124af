"""The checks. Each is a function of what is known that yields findings; the lists below say when it is called.

A new check is a function in one of these modules and its name in a list. A ``ValueError`` that it raises is an error,
too.
"""

from __future__ import annotations

from collections.abc import Callable

from mmdistill_dense.check.findings import Findings
from mmdistill_dense.check.rules import config, networks, step
from mmdistill_dense.check.subject import Subject

Check = Callable[[Subject], Findings]

CONFIG: tuple[Check, ...] = (
    config.keys,
    config.carrier,
    config.hook,
    config.workers,
    config.crop,
    config.batch,
    config.optimizer,
)
DATA: tuple[Check, ...] = (config.data, config.student_classes, config.validation_classes, config.labels)
MODEL: tuple[Check, ...] = (networks.trained, networks.teacher_classes, networks.summed)
WEIGHTS: tuple[Check, ...] = (
    networks.start,
    networks.learned_classes,
    networks.random_teacher,
    networks.normalisation,
    networks.small_teacher,
)
METRIC: tuple[Check, ...] = (networks.teacher_metric,)
STEP: tuple[Check, ...] = (
    step.finite,
    step.pull,
    step.against,
    step.untaught,
    step.flat_taps,
    step.own_copy,
    step.stretched,
)
COST: tuple[Check, ...] = (step.memory, step.cost)
