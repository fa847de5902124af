"""Check that the data set and the optimizer of a new config suit its student."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope

from mmdistill_dense.apps.recipes.compose import SCHEDULES
from mmdistill_dense.config.data_sets import chain
from mmdistill_dense.config.resolve import TASKS, find_config, load_model, student_option
from mmdistill_dense.guards.class_counts import check_student_classes
from mmdistill_dense.guards.config import check_crop


def check_data(config: Config, task: str) -> None:
    """Raise ValueError if the data set has another task or number of classes than the student, or a smaller crop."""
    init_default_scope(config.get('default_scope', 'mmengine'))
    found = load_model(student_option(config.model), 'model.student')
    own = TASKS.get(found.scope or '', task)
    if own != task:
        raise ValueError(f'the student is for {own}, the data set for {task}: choose a data set of the same task.')
    _check_schedule(config, task)
    dataset = config.train_dataloader.dataset
    check_crop(dataset, found.model)
    check_student_classes(classes_of(dataset), found.model)


def _check_schedule(config: Config, task: str) -> None:
    """Refuse a schedule of the other task: it keeps the best checkpoint by a score that no evaluation gives."""
    best = str((config.get('default_hooks') or {}).get('checkpoint', {}).get('save_best'))
    if ('mIoU' in best and task == 'det') or ('bbox' in best and task == 'seg'):
        raise ValueError(
            f'the data set is for {task}, but the schedule keeps the best checkpoint by {best!r} '
            f'(default_hooks.checkpoint.save_best): choose a schedule for {task}, such as {SCHEDULES[task]}.'
        )


def classes_of(dataset: Any) -> Sequence[str] | None:
    """Return the class names of a data set's config, looking through wrappers; ``None`` if it names none.

    No files are needed. The data set is built without reading them, because its class names may differ from its
    ``METAINFO`` (CamVid leaves out void). If that fails, the names come from the config.
    """
    dataset = next(iter(chain(dataset)), None)
    if dataset is None:
        return None
    try:
        return DATASETS.build({**dataset, 'lazy_init': True, 'pipeline': []}).metainfo.get('classes')
    except Exception:  # not a data set of mmengine, or wrong options
        return _written_classes(dataset)


def optimizer_problem(config: Config) -> str | None:
    """Return a warning if the student was published with another kind of optimizer, else ``None``.

    A transformer published with AdamW learns little with the SGD of a convolutional network, and nothing fails.
    """
    source = (config.get('model', {}).get('student') or {}).get('cfg')
    if not source:
        return None
    here, own = (optimizer_of(one) for one in (config, Config.fromfile(find_config(source, 'model.student.cfg'))))
    if not here or not own or here['type'] == own['type']:
        return None
    return (
        f"the student's own config {source} trains it with {own['type']} at lr {own.get('lr')}, this config with "
        f'{here["type"]} at lr {here.get("lr")}.'
    )


def optimizer_of(config: Config) -> Mapping[str, Any]:
    """Return the options of a config's optimizer, empty if it names none."""
    option = (config.get('optim_wrapper') or {}).get('optimizer') or {}
    return option if 'type' in option else {}


def _written_classes(dataset: Mapping[str, Any]) -> Sequence[str] | None:
    given = (dataset.get('metainfo') or {}).get('classes')
    kind = dataset.get('type')
    built = DATASETS.get(kind) if isinstance(kind, str) else kind
    return given or (getattr(built, 'METAINFO', None) or {}).get('classes')
