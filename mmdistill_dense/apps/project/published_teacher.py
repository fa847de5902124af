"""Whether the published weights of a zoo teacher serve as they are: the user's classes must be among theirs."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from mmengine.registry import DATASETS

from mmdistill_dense.apps.project import sides
from mmdistill_dense.apps.project.sides import Side
from mmdistill_dense.config.data_sets import chain
from mmdistill_dense.networks.class_pairs import ClassPairs
from mmdistill_dense.utils.messages import some
from mmdistill_dense.weights.strict_load import published_weights


def serves_as_it_is(teacher: Side, names: Sequence[str]) -> tuple[bool, str]:
    """Return whether a teacher's published weights know all classes of the data and can be had, and a note for it."""
    try:
        pairs = ClassPairs.of('auto', names, _classes_of(teacher), '--teacher-classes')
    except ValueError:  # nothing is shared
        return False, ''
    if not _can_be_had(teacher.name):
        return False, ''
    if not pairs.unknown:
        return True, 'its published weights know all your classes, so it is not trained: --train-teacher would do so'
    known = [name for number, name in enumerate(names) if number not in pairs.unknown]
    return False, (
        f'its published weights know {len(known)} of your {len(names)} classes ({some(known)}): to take them as they '
        'are, add --teacher-checkpoint auto --teacher-classes auto'
    )


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
        address = published_weights(name)
    except (KeyError, ValueError):
        return False
    host = re.match(r'https?://[^/]+/', address)
    folder = Path(os.getenv('MMDISTILL_CACHE', Path.home() / '.cache' / 'mmdistill_dense')) / 'checkpoints'
    return (folder / Path(address).name).is_file() or (host is not None and sides.reachable(host[0]))
