"""The checks: functions that take the known facts and yield findings. The lists below say when they are called.

A new check is a function in one of these modules and its name in a list. A ``ValueError`` that it raises is an error
too; one that only raises returns nothing.
"""

from __future__ import annotations

from collections.abc import Callable

from mmdistill_dense.apps.check.context import Findings, Subject
from mmdistill_dense.apps.check.rules import config_rules, network_rules
from mmdistill_dense.apps.check.rules import config_rules as schedule_rules
from mmdistill_dense.apps.check.rules import network_rules as step_rules
from mmdistill_dense.apps.check.rules import network_rules as unlabelled_rules

Check = Callable[[Subject], Findings | None]

CONFIG: tuple[Check, ...] = (
    config_rules.keys,
    config_rules.overrides,
    config_rules.hook,
    config_rules.workers,
    config_rules.crop,
    config_rules.batch,
    config_rules.evaluators,
    config_rules.optimizer,
    schedule_rules.endless,
    schedule_rules.rate,
    schedule_rules.checkpoints,
    schedule_rules.best,
)
DATA: tuple[Check, ...] = (
    config_rules.data,
    config_rules.student_classes,
    config_rules.validation_classes,
    config_rules.labels,
    schedule_rules.last_batch,
)
MODEL: tuple[Check, ...] = (
    network_rules.trained,
    network_rules.random_and_fixed,
    network_rules.teacher_classes,
    network_rules.padded,
    network_rules.summed,
    network_rules.warm_up,
    network_rules.enough_pictures,
)
WEIGHTS: tuple[Check, ...] = (
    network_rules.start,
    network_rules.learned_classes,
    network_rules.random_teacher,
    network_rules.normalisation,
    network_rules.small_teacher,
)
UNLABELLED: tuple[Check, ...] = (unlabelled_rules.few, unlabelled_rules.alike)
CONFIDENCE: tuple[Check, ...] = (unlabelled_rules.unsure, unlabelled_rules.few_labels)
METRIC: tuple[Check, ...] = (network_rules.teacher_metric,)
STEP: tuple[Check, ...] = (
    step_rules.finite,
    step_rules.unmeasured,
    step_rules.pull,
    step_rules.against,
    step_rules.untaught,
    step_rules.flat_taps,
    step_rules.own_copy,
    step_rules.stretched,
)
COST: tuple[Check, ...] = (step_rules.memory, step_rules.cost)
