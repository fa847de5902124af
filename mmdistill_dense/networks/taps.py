"""Taps: names of tensors inside a network, the modules that they lead to, and what a head returns there."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mmdistill_dense.losses.tensors import loss_dtype, without_autocast

DECODER = 'forward_decoder'  # of mmdet's detectors with queries; as a tap, what this method gets
_SYNTAX = re.compile(
    r'(?P<path>[A-Za-z_0-9.]*)'
    r'(?:\[(?P<index>-?[0-9]{1,9}|(?:-?[0-9]{1,9})?:(?:-?[0-9]{1,9})?)\])?'
    r'(?P<input>:input(?:\[(?P<argument>[0-9]{1,9})\])?)?'
)
TapOption = str | Sequence[str | tuple[str, float]]
AUTO = 'auto'  # a student_tap: choose the taps of both networks
AUTO_LAST = 'auto[-1]'  # the last of these alone


@dataclass(frozen=True)
class Tap:
    """A place in a network: ``path[index]:input[k]``.

    ``path`` is a dotted module path (``''`` is the network itself); ``index`` (integer or slice) picks from a tuple
    output, and ``[-1]`` also takes an output that is one tensor; ``:input`` takes the module's first positional
    argument instead of its output, ``:input[k]`` the k-th. Class tokens beside maps are left out. ``key`` is the config
    key that named the tap, for errors.

    Examples: ``'backbone[-1]'``, ``'neck'``, ``'neck[:3]'``, ``'decode_head.conv_seg:input'``.
    """

    path: str
    index: int | slice | None = None
    argument: int | None = None
    text: str = ''
    key: str = field(default='', compare=False)

    @classmethod
    def parse(cls, text: str | Tap) -> Tap:
        """Parse a tap; one that is parsed already stays as it is."""
        if isinstance(text, Tap):
            return text
        match = _SYNTAX.fullmatch(text) if isinstance(text, str) else None
        if match is None or '..' in text or match['path'].startswith('.') or match['path'].endswith('.'):
            shown = repr(text) if len(repr(text)) < 200 else f'{repr(text)[:200]}…'
            raise ValueError(
                f"{shown} is not a tap: write 'module.path', 'module.path[i]', 'module.path[a:b]', "
                "'module.path:input' or 'module.path:input[k]'. In a list: 'auxiliary_head.0.conv_seg'."
            )
        index: int | slice | None = None
        if match['index'] is not None:
            begin, *end = (int(part) if part else None for part in match['index'].split(':'))
            index = slice(begin, *end) if end else begin
        return cls(match['path'], index, int(match['argument'] or 0) if match['input'] else None, text)

    def __str__(self) -> str:
        return self.text

    def __hash__(self) -> int:
        return hash(self.text)

    def pick(self, args: tuple[Any, ...], output: Any) -> list[Tensor]:
        """Return the tapped tensors of one call of the module, tuples flattened."""
        value = output
        if self.argument is not None:
            if self.argument >= len(args):
                raise ValueError(f'tap {self.text!r}: the module was called with {len(args)} positional arguments.')
            value = args[self.argument]
        if isinstance(value, Mapping):
            keys = ', '.join(map(str, value))
            raise ValueError(f'tap {self.text!r}: this is a dict ({keys}): tap the modules that make its entries.')
        if self.index is not None and not (self.index == -1 and isinstance(value, Tensor)):
            if not isinstance(value, (tuple, list)):
                problem = f'has an index, but the module gives a {type(value).__name__}, not a tuple'
                raise ValueError(f'tap {self.text!r} {problem}: write {self.path!r}.')
            try:
                value = value[self.index]
            except IndexError:
                last = f'{self.path}[{len(value) - 1}] or {self.path}[-1]'
                problem = f'the output has {len(value)} entries; {last} is the last'
                raise ValueError(f'tap {self.text!r}: {problem}.') from None
        tensors = flatten(value)
        if not tensors:
            raise ValueError(f'tap {self.text!r}: found a {type(value).__name__} without any tensor.')
        maps = [tensor for tensor in tensors if tensor.dim() == 4]
        beside = all(tensor.dim() in (2, 4) for tensor in tensors)  # class tokens (B, C) that some backbones return
        return maps if maps and beside else tensors

    def put(self, output: Any, replace: Callable[[Tensor], Tensor]) -> Any:
        """Return the output of one call of the module with the tapped tensors replaced and the rest unchanged."""
        ids = {id(tensor) for tensor in self.pick((), output)}
        return _map_tensors(output, lambda tensor: replace(tensor) if id(tensor) in ids else tensor)


def flatten(value: Any) -> list[Tensor]:
    """Return the tensors in a value and in the tuples and lists inside it."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, (tuple, list)):
        return [tensor for item in value for tensor in flatten(item)]
    return []


def _map_tensors(value: Any, replace: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return replace(value)
    if isinstance(value, (tuple, list)):
        items = [_map_tensors(item, replace) for item in value]
        return items if isinstance(value, list) else tuple(items)
    return value


def parse_taps(option: str, taps: TapOption) -> tuple[list[Tap], list[float]]:
    """Return the taps of an option and their weights."""
    entries: list[Any] = list(taps) if isinstance(taps, (list, tuple)) else [taps]
    if not entries:
        raise ValueError(f'{option} is empty: name at least one tap.')
    pairs = [(entry, 1.0) if isinstance(entry, str) else entry for entry in entries]
    for pair in pairs:
        if not (isinstance(pair, (list, tuple)) and len(pair) == 2 and isinstance(pair[0], str)) or not (
            isinstance(pair[1], (int, float)) and pair[1] >= 0
        ):
            problem = f"{option} must be a tap or a list of taps and pairs ('tap', weight >= 0)"
            raise ValueError(f'{problem}, got the entry {pair!r}.')
    return [Tap.parse(tap) for tap, _ in pairs], [float(weight) for _, weight in pairs]


def check_auto(student: TapOption, teacher: TapOption | None, method: str, refusal: str) -> str:
    """Return ``student_tap`` if it is ``'auto'`` or ``'auto[-1]'``, which the method may refuse; else an empty text."""
    options = student if isinstance(student, (list, tuple)) else []
    entries = [tap[0] if isinstance(tap, (tuple, list)) and tap else tap for tap in options]
    auto = student if isinstance(student, str) and student in (AUTO, AUTO_LAST) else ''
    if AUTO in entries or AUTO_LAST in entries:
        raise ValueError(f"student_tap={student!r}: 'auto' stands alone, without other taps and weights.")
    if auto and refusal:
        raise ValueError(f'{method} refuses student_tap={auto!r}: {refusal}.')
    if (auto and teacher is not None) or teacher in (AUTO, AUTO_LAST):
        problem = "student_tap='auto' chooses the taps of the teacher too, so leave teacher_tap out"
        raise ValueError(f'teacher_tap={teacher!r} with student_tap={student!r}: {problem}, or name those of both.')
    return auto


HEAD = 'decode_head'
SCORES = f'{HEAD}.conv_seg'  # the class scores of a segmentor, whatever makes them


@dataclass(frozen=True)
class HeadKind:
    """What is known of a part of a network that may be a head: a child, or a member of a list of children."""

    path: str
    module: nn.Module
    early: bool = False  # a stage of a cascade before the last, which in training runs once more for the next stage

    @property
    def called_directly(self) -> bool:
        """Whether it is a head of mmseg, whose ``forward`` is called without module hooks in training."""
        return hasattr(self.module, 'cls_seg')

    @property
    def ends_in_conv_seg(self) -> bool:
        """Whether its class scores are the output of its ``conv_seg``."""
        kind = type(self.module)
        return isinstance(getattr(self.module, 'conv_seg', None), nn.Module) and any(
            cls.__name__ == 'BaseDecodeHead' and cls.__dict__.get('cls_seg') is getattr(kind, 'cls_seg', None)
            for cls in kind.__mro__
        )

    @property
    def in_decoder(self) -> bool:
        """Whether it is a segmentor's ``decode_head`` or a stage of it."""
        return self.path.split('.')[0] == HEAD

    @property
    def needs_more(self) -> bool:
        """Whether a ``decode_head`` needs more than features: the stage before, metadata of the pictures."""
        kind: Any = type(self.module)
        _, *arguments = inspect.signature(kind.forward).parameters.values()  # the first is self
        required = [arg for arg in arguments if arg.default is arg.empty and arg.kind is arg.POSITIONAL_OR_KEYWORD]
        return self.in_decoder and len(required) > 1


def heads_of(network: nn.Module) -> list[HeadKind]:
    """Return the children of a network, any of which may be a head; lists of children are taken apart."""
    heads = []
    for name, child in network.named_children():
        members = [*child.named_children()] if isinstance(child, (nn.ModuleList, nn.ModuleDict)) else []
        for index, member in members:
            heads.append(HeadKind(f'{name}.{index}', member, name == HEAD and index != members[-1][0]))
        if not members:
            heads.append(HeadKind(name, child))
    return heads


def head_of(network: nn.Module, path: str) -> HeadKind:
    """Return the one of :func:`heads_of` that a path leads to or into."""
    heads = (head for head in heads_of(network) if f'{path}.'.startswith(f'{head.path}.'))
    return next(heads, HeadKind(path, network.get_submodule(path)))


def scoring_head(network: nn.Module) -> str | None:
    """Return the path of the ``decode_head`` that ends in ``conv_seg``: of a cascade, the last such stage."""
    return next((head.path for head in heads_of(network)[::-1] if head.in_decoder and head.ends_in_conv_seg), None)


@dataclass(frozen=True)
class TapSite:
    """Where a tap is recorded."""

    path: str
    module: nn.Module
    reads_scores: bool = False  # whether the class scores are read out of what its ``forward`` returns
    first_call: bool = False  # whether only its first call counts: a cascade runs its early stages twice in training
    replays: bool = False  # whether the call of the network's decoder is kept, to be answered again for other queries


def resolve_tap(network: nn.Module, tap: Tap, key: str) -> TapSite:
    """Return where a tap is recorded.

    ``decode_head`` and ``decode_head.conv_seg`` are the class scores of a segmentor. In most heads ``conv_seg`` makes
    them. A cascade's are those of its last stage with a ``conv_seg``. In other heads (queries and masks, products of
    tokens, iterated kernels) they are read out of what the head returns. ``key`` is named in an error unless the tap
    knows its own.
    """
    key = tap.key or key
    if tap.path == DECODER:
        if not hasattr(network, DECODER):
            problem = 'this compares detectors with queries, such as Conditional, DAB and Deformable DETR or DINO'
            raise ValueError(f'{key}: {type(network).__name__} has no {DECODER}: {problem}.')
        return TapSite('decoder', network.get_submodule('decoder'), replays=True)
    path, module = tap.path, network
    head = getattr(network, HEAD, None)
    if path in (HEAD, SCORES) and head is not None and not hasattr(head, 'conv_seg'):
        stage = scoring_head(network)
        path = f'{stage}.conv_seg' if stage else HEAD if tap.argument is None else path
    for depth, name in enumerate(part for part in path.split('.') if part):
        children = dict(module.named_children())
        if name not in children:
            raise KeyError(_unknown_path(network, tap, depth, list(children), key))
        module = children[name]
    kind = HeadKind(path, module)
    early = head_of(network, path).early
    reads_head = tap.argument is None and (path == HEAD or kind.called_directly)
    if reads_head and kind.ends_in_conv_seg:
        return TapSite(f'{path}.conv_seg', module.get_submodule('conv_seg'), first_call=early)
    return TapSite(path, module, reads_head, early)


def check_student_input(network: nn.Module, tap: Tap, key: str) -> None:
    """Raise a ``ValueError`` for the input of a head whose training step calls its ``forward`` without hooks."""
    key, site = tap.key or key, resolve_tap(network, tap, key)
    if tap.argument is not None and HeadKind(site.path, site.module).called_directly:
        raise ValueError(
            f'{key}={tap.text!r}: {type(site.module).__name__} is called without module hooks in training, so its '
            'input cannot be recorded. Tap the module before it, e.g. backbone, or the input of a module inside it.'
        )


def no_scores(option: str, side: str, maps: str) -> str:
    """Return the refusal of what needs scores of a side that has none, with the maps that can be tapped instead."""
    return (
        f'{option} needs class scores or boxes, which the {side} does not predict. Compare maps instead, e.g. by '
        f"type='FeatureMatch' with {side}_tap={maps}."
    )


def _unknown_path(network: nn.Module, tap: Tap, depth: int, level: Sequence[str], key: str) -> str:
    root, children = tap.path.split('.')[0], [name for name, _ in network.named_children()]
    advice = getattr(network, 'tap_hint', '')
    if not advice and root.endswith('_head') and not any(name.endswith('_head') for name in children):
        side = 'teacher' if key.endswith('teacher_tap') else 'student'
        return no_scores(f'{key}={tap.text!r}', side, ' or '.join(map(repr, children)))
    if tap.path == SCORES and depth:
        advice = f'{type(getattr(network, HEAD)).__name__} makes its class scores without conv_seg. '
    names = [name for name, _ in network.named_modules() if name and 'loss' not in name]
    close = difflib.get_close_matches(tap.path, names, n=3, cutoff=0.5)
    parent = '.'.join(tap.path.split('.')[:depth]) or type(network).__name__
    hint = f' Close names: {", ".join(close)}.' if close else ''
    inside = ', '.join(name for name in level if 'loss' not in name)
    where = f'{key}={tap.text!r}: no such module in {type(network).__name__}.{hint}'
    return f'{where} Modules in {parent}: {inside}. {advice}mmdistill taps CONFIG lists all taps.'


_LEAST = 1e-8  # a class that no query claims gets this probability


def semantic_scores(head: nn.Module, output: Any, key: str) -> Tensor:
    """Return the class scores (B, C, H, W) in the output of a segmentation head, as logits.

    The output is a map; a list of maps (iterated kernels), whose last counts; or the class scores (B, Q, C + 1) and the
    masks (B, Q, H, W) of Q queries, as lists or stacks over the decoder's layers, whose last counts.
    """
    scores = output if isinstance(output, Tensor) else _last(output)
    channels = getattr(head, 'out_channels', 0)
    if isinstance(scores, Tensor) and scores.dim() == 4 and scores.shape[1] == channels:
        return scores
    if isinstance(output, (tuple, list)) and len(output) == 2:
        parts = {part.dim(): part for part in map(_last, output) if isinstance(part, Tensor)}
        if set(parts) == {3, 4}:
            return mask_scores(parts[3], parts[4])
    problem = f'{key}: no map of class scores can be read out of what {type(head).__name__} returns'
    raise ValueError(f"{problem}. Compare maps instead, e.g. by type='CWD' with student_tap='auto'.")


def _last(value: Any) -> Any:
    return value[-1] if isinstance(value, (tuple, list, Tensor)) and len(value) else value


@without_autocast
def mask_scores(classes: Tensor, masks: Tensor) -> Tensor:
    """Return ``log sum_q softmax(classes)_qc sigmoid(masks)_q`` (B, C, H, W), in float32 for half precision.

    ``classes`` are (B, Q, C + 1), the last being none; ``masks`` (B, Q, H, W). Its softmax over the classes is the
    semantic map of Cheng et al., "Per-Pixel Classification is Not All You Need for Semantic Segmentation", 2021,
    https://arxiv.org/abs/2107.06278, section 3.4, made to sum to 1 at each place.
    """
    dtype = loss_dtype(masks)
    of_queries = classes.to(dtype).softmax(-1)[..., :-1]
    return torch.einsum('bqc,bqhw->bchw', of_queries, masks.to(dtype).sigmoid()).add(_LEAST).log()
