"""Find the module that a tap names, also in segmentation heads that are called without module hooks."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from mmdistill_dense.networks.taps import Tap

HEAD = 'decode_head'
SCORES = f'{HEAD}.conv_seg'  # the class scores of a segmentor, whatever makes them


@dataclass(frozen=True)
class Place:
    """Where a tap is recorded.

    Attributes:
        path: The path of the module.
        module: The module.
        reads_scores: Whether the class scores are read out of what its ``forward`` returns.
        first_call: Whether only its first call in a pass counts: a cascade runs its early stages twice in training.
    """

    path: str
    module: nn.Module
    reads_scores: bool = False
    first_call: bool = False


def find_place(network: nn.Module, tap: Tap, key: str) -> Place:
    """Return where a tap is recorded.

    ``decode_head`` and ``decode_head.conv_seg`` are the class scores of a segmentor. In most heads ``conv_seg`` makes
    them. A cascade's are those of its last stage with a ``conv_seg``. In other heads (queries and masks, products of
    tokens, iterated kernels) they are read out of what the head returns.

    Args:
        network: The student or a teacher.
        tap: The tap.
        key: The key to name in an error unless the tap knows its own, e.g. ``'student_tap'``.

    Raises:
        KeyError: When there is no such module; names similar ones and the modules where the path ends.
    """
    key = tap.key or key
    path = _scores_path(network, tap) or tap.path
    module = network
    for depth, name in enumerate(part for part in path.split('.') if part):
        children = dict(module.named_children())
        if name not in children:
            raise KeyError(_unknown_path(network, tap, depth, list(children), key))
        module = children[name]
    reads = tap.argument is None and (path == HEAD or hasattr(module, 'cls_seg'))
    if reads and ends_in_conv_seg(module):
        return Place(f'{path}.conv_seg', module.get_submodule('conv_seg'), first_call=_early(network, path))
    return Place(path, module, reads, _early(network, path))


def find_module(network: nn.Module, tap: Tap, key: str) -> nn.Module:
    """Return the tapped module; see :func:`find_place`."""
    return find_place(network, tap, key).module


def check_student_input(network: nn.Module, tap: Tap, key: str) -> None:
    """Raise a ``ValueError`` for the input of a mmseg head, whose training step calls its ``forward`` without hooks."""
    key, module = tap.key or key, find_module(network, tap, key)
    if tap.argument is not None and hasattr(module, 'cls_seg'):
        raise ValueError(
            f'{key}={tap.text!r}: {type(module).__name__} is called without module hooks in training, so its input '
            'cannot be recorded. Tap the module before it, e.g. backbone, or the input of a module inside it.'
        )


def ends_in_conv_seg(head: Any) -> bool:
    """Tell whether a head's class scores are the output of its ``conv_seg``."""
    return isinstance(getattr(head, 'conv_seg', None), nn.Module) and any(
        cls.__name__ == 'BaseDecodeHead' and cls.__dict__.get('cls_seg') is getattr(type(head), 'cls_seg', None)
        for cls in type(head).__mro__
    )


def scoring_head(network: nn.Module) -> str | None:
    """Return the path of the segmentation head that ends in ``conv_seg``: of a cascade, the last such stage."""
    head = getattr(network, HEAD, None)
    if not isinstance(head, nn.ModuleList):
        return HEAD if ends_in_conv_seg(head) else None
    return next((f'{HEAD}.{i}' for i in reversed(range(len(head))) if ends_in_conv_seg(head[i])), None)


def no_scores(what: str, side: str, maps: str) -> str:
    """Return the refusal of a network that predicts neither classes nor boxes.

    Args:
        what: The tap with its config key, or the method, that needs them.
        side: ``'student'`` or ``'teacher'``.
        maps: What can be tapped instead.
    """
    return (
        f'{what} needs class scores or boxes, which the {side} does not predict. Compare maps instead, e.g. by '
        f"type='FeatureMatch' with {side}_tap={maps}."
    )


def _scores_path(network: nn.Module, tap: Tap) -> str | None:
    """Return the path that a tap of the class scores stands for, or None where its own path is meant."""
    head = getattr(network, HEAD, None)
    if head is None or tap.path not in (HEAD, SCORES) or hasattr(head, 'conv_seg'):
        return None
    if isinstance(head, nn.ModuleList) and (path := scoring_head(network)):
        return f'{path}.conv_seg'
    return None if tap.argument is not None else HEAD


def _early(network: nn.Module, path: str) -> bool:
    """Tell whether a path leads into a stage of a cascade before the last."""
    root, *rest = path.split('.')
    head = getattr(network, HEAD, None)
    return root == HEAD and isinstance(head, nn.ModuleList) and bool(rest) and int(rest[0]) < len(head) - 1


def _unknown_path(network: nn.Module, tap: Tap, depth: int, level: Sequence[str], key: str) -> str:
    root, children = tap.path.split('.')[0], [name for name, _ in network.named_children()]
    own = getattr(network, 'tap_hint', '')
    if not own and root.endswith('_head') and not any(name.endswith('_head') for name in children):
        side = 'teacher' if key.endswith('teacher_tap') else 'student'
        return no_scores(f'{key}={tap.text!r}', side, ' or '.join(map(repr, children)))
    if tap.path == SCORES and depth:
        own = f'{type(getattr(network, HEAD)).__name__} makes its class scores without conv_seg. '
    names = [name for name, _ in network.named_modules() if name and 'loss' not in name]
    close = difflib.get_close_matches(tap.path, names, n=3, cutoff=0.5)
    parent = '.'.join(tap.path.split('.')[:depth]) or type(network).__name__
    hint = f' Close names: {", ".join(close)}.' if close else ''
    inside = ', '.join(name for name in level if 'loss' not in name)
    where = f'{key}={tap.text!r}: no such module in {type(network).__name__}.{hint}'
    return f'{where} Modules in {parent}: {inside}. {own}tools/list_taps.py CONFIG lists all taps.'
