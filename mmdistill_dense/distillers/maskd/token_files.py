"""Read and write token files: ours and the two released layouts, safely (no code is run) and atomically.

In memory the tokens of a distiller are a flat dict, named as in the released files: ``'<level>.mask_token'`` (T, C)
and, where masks are weighed, ``'<level>.prob.0.weight'`` (C, C, 3, 3), ``.prob.0.bias`` (C,), ``.prob.2.weight``
(T, C, 1, 1) and ``.prob.2.bias`` (T,).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmdistill_dense.distillers.maskd.fingerprint import from_number
from mmdistill_dense.losses import Branch
from mmdistill_dense.utils.atomic import save_whole
from mmdistill_dense.utils.messages import some
from mmdistill_dense.weights.strict_load import read_checkpoint, state_dict_of

Values = dict[str, Tensor]

TOKEN = 'mask_token'
BRANCH = ('prob.0.weight', 'prob.0.bias', 'prob.2.weight', 'prob.2.bias')
_NAME = re.compile(
    rf'^(?P<owner>.*?)(?:mask_modules\.(?P<level>\d+)\.)?(?P<name>{"|".join(map(re.escape, (TOKEN, *BRANCH)))})$'
)


def level_of(values: Mapping[str, Tensor], level: int) -> tuple[Tensor, Branch | None]:
    """Return the tokens of one level, and its branch where there is one."""
    branch = [values.get(f'{level}.{name}') for name in BRANCH]
    return values[f'{level}.{TOKEN}'], None if branch[0] is None else Branch(*branch)  # type: ignore[arg-type]


def read_tokens(path: str | Path, owner: str) -> tuple[Values, dict[str, Any]]:
    """Read a token file.

    Args:
        path: A file of ours (tokens, or a runner's checkpoint with its ``distillers``), the released detection layout
            (names with ``mask_modules.<level>.``, also inside a dump of a whole detector), or the released segmentation
            layout (one ``mask_token``).
        owner: Name of the distiller, which selects its tokens in a checkpoint with several.

    Returns:
        The values, and the file's ``meta``: of our files the teacher and the options of the learning, of a checkpoint
        the fingerprint of the ``teacher``, of the released layouts neither. ``unfinished`` tells whether the learning
        had not ended.

    Raises:
        ValueError: When the file cannot be read safely, holds no tokens, or several sets and none under ``owner``.
    """
    content = read_checkpoint(path)
    state = content.get('distillers') or state_dict_of(content, path)
    sets: dict[str, Values] = {}
    for match, value in ((_NAME.match(name), value) for name, value in state.items()):
        if match:
            sets.setdefault(match['owner'], {})[f'{match["level"] or 0}.{match["name"]}'] = value.float()
    if not sets:
        held = some(map(repr, state))
        raise ValueError(f'{str(path)!r} holds no tokens: no name in it ends in {TOKEN}. It holds {held}.')
    if len(sets) > 1 and f'{owner}.' not in sets:
        held = some(map(repr, sets))
        raise ValueError(f'{str(path)!r} holds several sets of tokens, under {held}; none is {owner!r}.')
    chosen = f'{owner}.' if len(sets) > 1 else next(iter(sets))
    meta = {**(content.get('meta') or {}), 'unfinished': 'learner' in content}
    if f'{chosen}tokens_ready' in state:
        meta['teacher'] = from_number(int(state[f'{chosen}tokens_ready']))
    return sets[chosen], meta


def fit_tokens(values: Mapping[str, Tensor], expected: Mapping[str, torch.Size], what: str) -> Values:
    """Return the values that a distiller needs, after a check of their shapes.

    Args:
        values: What a file holds; a branch is left out where none is expected.
        expected: The needed shapes by name.
        what: Name of the file, for an error.

    Raises:
        ValueError: For another number of levels, tokens or channels, or a missing branch; says what both have.
    """
    kept = {name: value for name, value in values.items() if name in expected or not name.endswith(BRANCH)}
    if {name: value.shape for name, value in kept.items()} != dict(expected):
        found = {name: value.shape for name, value in values.items()}
        raise ValueError(
            f'{what} holds {_describe(found)}; the distiller needs {_describe(expected)}. Set num_tokens, weight_mask '
            'and the taps as they were when the tokens were learned, or remove tokens to learn them.'
        )
    return kept


def write_tokens(path: Path, values: Mapping[str, Tensor], meta: Mapping[str, Any], **more: Any) -> None:
    """Write a token file atomically, with its folders: a reader gets the old file or the new one, never a part.

    Args:
        path: The file.
        values: The tokens.
        meta: Plain values to keep beside them.
        **more: Further entries, e.g. the state of unfinished learning.
    """
    state = {f'mask_modules.{name}': value.detach().cpu().clone() for name, value in values.items()}
    save_whole({'meta': dict(meta), 'state_dict': state, **more}, path)


def _describe(shapes: Mapping[str, torch.Size]) -> str:
    levels = [tuple(shape) for name, shape in sorted(shapes.items()) if name.endswith(TOKEN)]
    kinds = ', '.join(f'{count} tokens of {channels} channels' for count, channels in dict.fromkeys(levels))
    branch = 'with' if any(name.endswith(BRANCH) for name in shapes) else 'without'
    return f'{kinds} on {len(levels)} level{"s" * (len(levels) != 1)}, {branch} mask weights'
