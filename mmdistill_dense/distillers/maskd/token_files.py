"""Read and write token files: ours and the two released layouts, safely (no code is run) and atomically.

In memory the tokens of a distiller are a flat dict, named as in the released files: ``'<level>.mask_token'`` (T, C),
or (bands, T, C), and, where masks are weighed, ``'<level>.prob.0.weight'`` (C, C, 3, 3), ``.prob.0.bias`` (C,),
``.prob.2.weight`` (T, C, 1, 1) and ``.prob.2.bias`` (T,).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mmdistill_dense.config.local_code import code_of_dataset
from mmdistill_dense.networks.taps import Tap
from mmdistill_dense.utils.files import save_whole
from mmdistill_dense.utils.validate import some
from mmdistill_dense.weights.strict_load import read_checkpoint, state_dict_of

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
    taps, model, network = list(taps), teacher.config.model, teacher.module('')
    preprocessor = model.get('data_preprocessor') or {}
    names, tapped = [name for name, _ in network.named_children()], {tap.path.split('.')[0] for tap in taps}
    behind = set() if '' in tapped else set(names[1 + max(map(names.index, tapped)) :])
    weights = {name: tensor for name, tensor in network.state_dict().items() if name.split('.')[0] not in behind}
    parts = {
        'type': model.get('type'),
        'normalisation': {name: preprocessor.get(name) for name in _NORMALISATION},
        'taps': [str(tap) for tap in taps],
        'weights': _hash_tensors(weights),
    }
    return digest(parts)


def learning_fingerprint(teacher: FrozenTeacher, taps: Iterable[Tap], settings: Any, dataset: Any) -> str:
    """Return the fingerprint of learned tokens: teacher (config, all weights), taps, settings, data with its code."""
    parts = {
        'teacher': teacher.config.model,
        'weights': _hash_tensors(teacher.module('').state_dict()),
        'taps': [str(tap) for tap in taps],
        'settings': settings,
        'dataset': dataset,
    }
    if code := code_of_dataset(dataset):  # tokens of installed classes keep their fingerprint
        parts['code'] = code
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


def _hash_tensors(tensors: Mapping[str, Tensor]) -> str:
    content = hashlib.sha256()
    for name in sorted(tensors):
        if not name.endswith('num_batches_tracked'):  # not read in evaluation, and missing in older files
            value = tensors[name].detach().cpu().contiguous()
            content.update(f'{name}{value.dtype}{tuple(value.shape)}'.encode())
            content.update(value.reshape(-1).view(torch.uint8).numpy().data)  # (bytes,)
    return content.hexdigest()


TokenTensors = dict[str, Tensor]
TOKEN = 'mask_token'
BRANCH = ('prob.0.weight', 'prob.0.bias', 'prob.2.weight', 'prob.2.bias')
_NAME = re.compile(
    rf'^(?P<owner>.*?)(?:mask_modules\.(?P<level>\d+)\.)?(?P<name>{"|".join(map(re.escape, (TOKEN, *BRANCH)))})$'
)


def read_tokens(path: str | Path, owner: str) -> tuple[TokenTensors, dict[str, Any]]:
    """Read a token file."""
    content = read_checkpoint(path)
    state = content.get('distillers') or state_dict_of(content, path)
    sets: dict[str, TokenTensors] = {}
    for match, value in ((_NAME.match(name), value) for name, value in state.items()):
        if match:
            sets.setdefault(match['owner'], {})[f'{match["level"] or 0}.{match["name"]}'] = value.float()
    if not sets:
        names = some(map(repr, state))
        raise ValueError(f'{str(path)!r} holds no tokens: no name in it ends in {TOKEN}. It holds {names}.')
    if len(sets) > 1 and f'{owner}.' not in sets:
        names = some(map(repr, sets))
        raise ValueError(f'{str(path)!r} holds several sets of tokens, under {names}; none is {owner!r}.')
    prefix = f'{owner}.' if len(sets) > 1 else next(iter(sets))
    meta = {**(content.get('meta') or {}), 'unfinished': 'learner' in content}
    if f'{prefix}tokens_ready' in state:
        meta['teacher'] = from_number(int(state[f'{prefix}tokens_ready']))
    return sets[prefix], meta


def fit_tokens(values: Mapping[str, Tensor], expected: Mapping[str, torch.Size], source: str) -> TokenTensors:
    """Return the values that a distiller needs, after a check of their shapes."""
    tensors = {name: value for name, value in values.items() if name in expected or not name.endswith(BRANCH)}
    if {name: value.shape for name, value in tensors.items()} != dict(expected):
        shapes = {name: value.shape for name, value in values.items()}
        raise ValueError(
            f'{source} holds {_describe(shapes)}; the distiller needs {_describe(expected)}. Set num_tokens, '
            'weight_mask and the taps as they were when the tokens were learned, or remove tokens to learn them.'
        )
    return tensors


def write_tokens(path: Path, values: Mapping[str, Tensor], meta: Mapping[str, Any], **more: Any) -> None:
    """Write a token file atomically, with its folders: a reader gets the old file or the new one, never a part."""
    state = {f'mask_modules.{name}': value.detach().cpu().clone() for name, value in values.items()}
    save_whole({'meta': dict(meta), 'state_dict': state, **more}, path)


def _describe(shapes: Mapping[str, torch.Size]) -> str:
    levels = [tuple(shape) for name, shape in sorted(shapes.items()) if name.endswith(TOKEN)]
    kinds = ', '.join(
        f'{" x ".join(map(str, counts))} tokens of {channels} channels' for *counts, channels in dict.fromkeys(levels)
    )
    branch = 'with' if any(name.endswith(BRANCH) for name in shapes) else 'without'
    return f'{kinds} on {len(levels)} level{"s" * (len(levels) != 1)}, {branch} mask weights'
