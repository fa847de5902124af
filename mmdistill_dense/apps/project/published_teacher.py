"""Whether the published weights of a zoo teacher serve as they are: the user's classes must be among theirs."""

from __future__ import annotations

from collections.abc import Sequence

from mmengine.registry import DATASETS

from mmdistill_dense.apps.project.sides import Side, fetchable
from mmdistill_dense.config.data_sets import chain
from mmdistill_dense.distillers.presets import AUTO
from mmdistill_dense.networks.class_pairs import BACKGROUND, ClassPairs
from mmdistill_dense.utils.messages import some
from mmdistill_dense.weights.strict_load import downloads, published_weights

_COMPARE_ALL = ('dist', 'frs')  # methods that need the classes of the teacher


def serves_as_it_is(teacher: Side, names: Sequence[str], methods: Sequence[str]) -> tuple[str | None, str | None, str]:
    """Tell whether a teacher's published weights know all classes of the data and can be had.

    Returns:
        ``'auto'`` as its checkpoint, or ``None``; its option ``classes``; and a note for the user.
    """
    theirs = _classes_of(teacher)
    try:
        pairs = ClassPairs.of('auto', names, theirs, '--teacher-classes')
    except ValueError:  # nothing is shared
        return None, None, ''
    # a group of several is an open background
    known = [names[group.student[0]] for group in pairs.groups if len(group.student) == 1]
    if not {*map(str.lower, known)} - {BACKGROUND} or not _can_be_had(teacher.name):
        return None, None, ''
    same = list(theirs) == list(names)
    if same or (len(known) == len(names) > 1 and not {*methods} & {*_COMPARE_ALL}):
        note = 'its published weights know all your classes, so it is not trained: --train-teacher would do so'
        return AUTO, None if same else AUTO, note
    if len(known) == len(names):
        return None, None, ''
    note = (
        f'its published weights know {len(known)} of your {len(names)} classes ({some(known)}): to take them as they '
        'are, add --teacher-checkpoint auto --teacher-classes auto'
    )
    return None, None, note


def _classes_of(teacher: Side) -> Sequence[str]:
    """Return the names of the classes that a zoo config trains on; empty if it does not say them."""
    dataset = (teacher.config.get('train_dataloader') or {}).get('dataset')
    if '::' not in teacher.name or not dataset:
        return ()
    with DATASETS.switch_scope_and_registry(teacher.config.default_scope) as registry:
        known = [(one, getattr(registry.get(str(one.get('type'))), 'METAINFO', None)) for one in chain(dataset)]
    found = ((one.get('metainfo') or {}).get('classes') or (own or {}).get('classes') for one, own in known)
    return next(filter(None, found), ())


def _can_be_had(name: str) -> bool:
    """Tell whether a config has published weights that are here or whose host answers."""
    try:
        return fetchable(published_weights(name), downloads())
    except (KeyError, ValueError):
        return False
