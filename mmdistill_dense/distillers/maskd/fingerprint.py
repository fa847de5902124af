"""Fingerprints of what tokens were learned on; independent of file paths."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mmdistill_dense.networks.taps import Tap

if TYPE_CHECKING:
    from mmdistill_dense.networks.teacher import FrozenTeacher

# places of data, and how weights were initialised before they were loaded
_IRRELEVANT = ('data_root', 'init_cfg', 'pretrained')
_NORMALISATION = ('mean', 'std', 'bgr_to_rgb', 'rgb_to_bgr')


def teacher_fingerprint(teacher: FrozenTeacher, taps: Iterable[Tap]) -> str:
    """Return the fingerprint of the maps that a loaded teacher gives at the taps.

    It covers the class, the normalisation of pixels, the taps, and the weights of the children up to the last tapped
    one. The heads after it are left out: they may differ between two runs that share tokens.
    """
    taps = list(taps)
    model = teacher.config.model
    preprocessor = model.get('data_preprocessor') or {}
    parts = {
        'type': model.get('type'),
        'normalisation': {name: preprocessor.get(name) for name in _NORMALISATION},
        'taps': [str(tap) for tap in taps],
        'weights': _hash_tensors(_children_up_to(teacher.as_loaded(), taps)),
    }
    return digest(parts)


def learning_fingerprint(teacher: FrozenTeacher, taps: Iterable[Tap], settings: Any, dataset: Any) -> str:
    """Return the fingerprint of learned tokens: teacher (config and all weights), taps, settings, data set config."""
    parts = {
        'teacher': teacher.config.model,
        'weights': _hash_tensors(teacher.as_loaded().state_dict()),
        'taps': [str(tap) for tap in taps],
        'settings': settings,
        'dataset': dataset,
    }
    return digest(parts)


def digest(value: Any) -> str:
    """Return ``'t'`` and 15 hexadecimal digits for plain nested values, config dicts and classes.

    The letter distinguishes a file named by it from published weights, whose names end in their SHA-256.
    """
    text = json.dumps(_portable(value), sort_keys=True)
    return 't' + hashlib.sha256(text.encode()).hexdigest()[:15]


def as_number(fingerprint: str | None) -> int:
    """Return a fingerprint as an integer for a buffer; 1 is an unknown fingerprint, 0 is never returned."""
    return 1 if fingerprint is None else int(fingerprint.removeprefix('t'), 16)


def from_number(number: int) -> str | None:
    """Return the fingerprint of a number from :func:`as_number`, ``None`` for an unknown one."""
    return None if number < 2 else f't{number:015x}'


def _portable(value: Any, root: str = '') -> Any:
    """Return a plain copy without the folders of this machine."""
    if isinstance(value, Mapping):
        root = str(value.get('data_root') or root)
        return {str(key): _portable(item, root) for key, item in value.items() if key not in _IRRELEVANT}
    if isinstance(value, (list, tuple)):
        return [_portable(item, root) for item in value]
    if isinstance(value, str):
        inside = value.removeprefix(root).lstrip('/') if root and value.startswith(root) else value
        return os.path.basename(inside) if os.path.isabs(inside) else inside
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return getattr(value, '__qualname__', type(value).__qualname__)


def _children_up_to(network: nn.Module, taps: Iterable[Tap]) -> dict[str, Tensor]:
    names = [name for name, _ in network.named_children()]
    tapped = {tap.path.split('.')[0] for tap in taps}
    last = len(names) if '' in tapped else 1 + max(names.index(name) for name in tapped)
    behind = set(names[last:])
    return {name: value for name, value in network.state_dict().items() if name.split('.')[0] not in behind}


def _hash_tensors(tensors: Mapping[str, Tensor]) -> str:
    content = hashlib.sha256()
    for name in sorted(tensors):
        if not name.endswith('num_batches_tracked'):  # not read in evaluation, and missing in older files
            value = tensors[name].detach().cpu().contiguous()
            content.update(f'{name}{value.dtype}{tuple(value.shape)}'.encode())
            content.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return content.hexdigest()
