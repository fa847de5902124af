"""Taps: names of tensors inside a network, what a head returns there, and the calls of a decoder of queries."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mmdistill_dense.losses.tensors import loss_dtype, without_autocast
from mmdistill_dense.utils.runner_internals import Samples

DECODER = 'forward_decoder'  # of mmdet's detectors with queries; as a tap, what this method gets
QUERIES = ('query', 'query_pos', 'reference_points')  # those of its arguments that are queries
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
        return cls(
            match['path'], _parse_index(match['index']), int(match['argument'] or 0) if match['input'] else None, text
        )

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
            raise ValueError(
                f'tap {self.text!r}: this is a dict ({", ".join(map(str, value))}), whose entries cannot be tapped: '
                'tap the modules that make them.'
            )
        if self.index is not None:
            value = self._pick_index(value)
        tensors = _maps_alone(flatten(value))
        if not tensors:
            raise ValueError(f'tap {self.text!r}: found a {type(value).__name__} without any tensor.')
        return tensors

    def put(self, output: Any, replace: Callable[[Tensor], Tensor]) -> Any:
        """Return the output of one call of the module with the tapped tensors replaced and the rest unchanged."""
        chosen = {id(tensor) for tensor in self.pick((), output)}
        return _map_tensors(output, lambda tensor: replace(tensor) if id(tensor) in chosen else tensor)

    def _pick_index(self, value: Any) -> Any:
        if isinstance(value, Tensor) and self.index == -1:
            return value
        if not isinstance(value, (tuple, list)):
            raise ValueError(
                f'tap {self.text!r} has an index, but the module gives a {type(value).__name__}, not a tuple: write '
                f'{self.path!r}.'
            )
        try:
            return value[self.index]  # type: ignore[index]
        except IndexError:
            raise ValueError(
                f'tap {self.text!r}: the output has {len(value)} entries; {self.path}[{len(value) - 1}] or '
                f'{self.path}[-1] is the last.'
            ) from None


def _parse_index(text: str | None) -> int | slice | None:
    if text is None:
        return None
    if ':' not in text:
        return int(text)
    begin, end = (int(part) if part else None for part in text.split(':'))
    return slice(begin, end)


def flatten(value: Any) -> list[Tensor]:
    """Return the tensors in a value and in the tuples and lists inside it."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, (tuple, list)):
        return [tensor for item in value for tensor in flatten(item)]
    return []


def _maps_alone(tensors: list[Tensor]) -> list[Tensor]:
    """Leave out the class tokens (B, C) that some backbones return beside their maps."""
    maps = [tensor for tensor in tensors if tensor.dim() == 4]
    return maps if maps and all(tensor.dim() in (2, 4) for tensor in tensors) else tensors


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
        if not _is_weighted_tap(pair):
            raise ValueError(
                f"{option} must be a tap or a list of taps and pairs ('tap', weight >= 0), got the entry {pair!r}."
            )
    return [Tap.parse(tap) for tap, _ in pairs], [float(weight) for _, weight in pairs]


def check_auto(student: TapOption, teacher: TapOption | None, method: str, refusal: str) -> str:
    """Return ``student_tap`` if it is ``'auto'`` or ``'auto[-1]'``, which the method may refuse; else an empty text."""
    listed = student if isinstance(student, (list, tuple)) else []
    entries = [one[0] if isinstance(one, (tuple, list)) and one else one for one in listed]
    auto = student if isinstance(student, str) and student in (AUTO, AUTO_LAST) else ''
    if AUTO in entries or AUTO_LAST in entries:
        raise ValueError(f"student_tap={student!r}: 'auto' stands alone, without other taps and weights.")
    if auto and refusal:
        raise ValueError(f'{method} refuses student_tap={auto!r}: {refusal}.')
    if auto and teacher is not None:
        raise ValueError(
            f'student_tap={auto!r} chooses the taps of the teacher too, but teacher_tap={teacher!r} is given. Leave '
            "teacher_tap out, or name the student's taps as well, e.g. student_tap=['backbone[2]', 'backbone[3]']."
        )
    if teacher in (AUTO, AUTO_LAST):
        raise ValueError(
            f"teacher_tap={teacher!r} with student_tap={student!r}: write student_tap='auto', which chooses the taps "
            "of both networks, or name the teacher's taps."
        )
    return auto


def _is_weighted_tap(pair: Any) -> bool:
    return (
        isinstance(pair, (tuple, list))
        and len(pair) == 2
        and isinstance(pair[0], str)
        and isinstance(pair[1], (int, float))
        and pair[1] >= 0
    )


HEAD = 'decode_head'
SCORES = f'{HEAD}.conv_seg'  # the class scores of a segmentor, whatever makes them


@dataclass(frozen=True)
class Place:
    """Where a tap is recorded."""

    path: str
    module: nn.Module
    reads_scores: bool = False  # whether the class scores are read out of what its ``forward`` returns
    first_call: bool = False  # whether only its first call counts: a cascade runs its early stages twice in training
    replays: bool = False  # whether the call of the network's decoder is kept, to be answered again for other queries


def find_place(network: nn.Module, tap: Tap, key: str) -> Place:
    """Return where a tap is recorded.

    ``decode_head`` and ``decode_head.conv_seg`` are the class scores of a segmentor. In most heads ``conv_seg`` makes
    them. A cascade's are those of its last stage with a ``conv_seg``. In other heads (queries and masks, products of
    tokens, iterated kernels) they are read out of what the head returns. ``key`` is named in an error unless the tap
    knows its own.
    """
    key = tap.key or key
    if tap.path == DECODER:
        if not hasattr(network, DECODER):
            raise ValueError(
                f'{key}: {type(network).__name__} has no {DECODER}: this compares detectors with queries, such as '
                'Conditional, DAB and Deformable DETR or DINO.'
            )
        return Place('decoder', network.get_submodule('decoder'), replays=True)
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
    """Return the refusal of what needs scores of a side that has none, with the maps that can be tapped instead."""
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
    return f'{where} Modules in {parent}: {inside}. {own}mmdistill taps CONFIG lists all taps.'


_LEAST = 1e-8  # a class that no query claims gets this probability


def semantic_scores(head: nn.Module, output: Any, key: str) -> Tensor:
    """Return the class scores (B, C, H, W) in the output of a segmentation head, as logits.

    The output is a map; a list of maps (iterated kernels), whose last counts; or the class scores (B, Q, C + 1) and the
    masks (B, Q, H, W) of Q queries, as lists or stacks over the decoder's layers, whose last counts.
    """
    scores = output if isinstance(output, Tensor) else _last(output)
    if _is_map(scores, head):
        return scores
    if isinstance(output, (tuple, list)) and len(output) == 2:
        parts = {part.dim(): part for part in map(_last, output) if isinstance(part, Tensor)}
        if set(parts) == {3, 4}:
            return mask_scores(parts[3], parts[4])
    raise ValueError(
        f'{key}: no map of class scores can be read out of what {type(head).__name__} returns. Compare maps instead, '
        "e.g. by type='CWD' with student_tap='auto'."
    )


def _is_map(value: Any, head: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() == 4 and value.shape[1] == getattr(head, 'out_channels', 0)


def _last(value: Any) -> Any:
    """Return the last of a list, or of a stack of tensors."""
    return value[-1] if isinstance(value, (tuple, list, Tensor)) and len(value) else value


@without_autocast
def mask_scores(classes: Tensor, masks: Tensor) -> Tensor:
    """Return ``log sum_q softmax(classes)_qc sigmoid(masks)_q`` of Q queries, the last class being none.

    Its softmax over the classes is the head's semantic map (Cheng et al., "Per-Pixel Classification is Not All You Need
    for Semantic Segmentation", 2021, https://arxiv.org/abs/2107.06278, section 3.4), made to sum to 1 at each place.

    Of ``classes`` (B, Q, C + 1) and ``masks`` (B, Q, H, W) it makes (B, C, H, W), in float32 for half precision.
    """
    dtype = loss_dtype(masks)
    of_queries = classes.to(dtype).softmax(-1)[..., :-1]
    return torch.einsum('bqc,bqhw->bchw', of_queries, masks.to(dtype).sigmoid()).add(_LEAST).log()


class ForwardHook:
    """Calls a function with the arguments and the output of each ``forward`` of one module, until it is removed.

    mmseg's segmentors call ``head.forward`` directly, so hooks of torch do not fire.
    """

    def __init__(self, module: nn.Module, function: Callable[[nn.Module, tuple[Any, ...], Any], None]) -> None:
        self.module, self.before = module, vars(module).get('forward')
        forward = module.forward

        def noted(*args: Any, **kwargs: Any) -> Any:
            output = forward(*args, **kwargs)
            function(module, args, output)
            return output

        vars(module)['forward'] = noted

    def remove(self) -> None:
        """Call the module's own ``forward`` again; the hook that was made last goes first."""
        if self.before is None:
            del vars(self.module)['forward']
        else:
            vars(self.module)['forward'] = self.before


# Decoders of queries: a call is kept for a step, and answered again for other queries


class Replay(list[Tensor]):
    """The queries of one call of a network's decoder, (B, M, ...) each, which answers others on the same pictures.

    Attributes:
        names: What the queries are called.
    """

    def __init__(self, network: nn.Module, kept: Mapping[str, Any]) -> None:
        self.network, self.kept = network, kept
        self.names = tuple(name for name in QUERIES if isinstance(kept.get(name), Tensor))
        super().__init__(kept[name] for name in self.names)

    def answer(self, queries: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the class logits (L, B, M, K) and boxes (L, B, M, 4) of all layers, for queries in this order."""
        given = {**self.kept, **dict(zip(self.names, queries, strict=True))}
        if 'dn_mask' in given:  # of a DINO in training, whose own call has denoising queries in front
            given['dn_mask'] = None
        network: Any = self.network
        return network.bbox_head.forward(**_of_head(network.forward_decoder(**given)))


def run_queries(network: Any, inputs: Tensor, samples: Samples | None) -> None:
    """Run a detector with queries to the end of its head, on the metadata of the samples."""
    kept = network.forward_transformer(network.extract_feat(inputs), metainfo_only(samples, inputs))
    network.bbox_head(**_of_head(kept))


def _of_head(kept: Mapping[str, Any]) -> dict[str, Any]:
    return {name: kept[name] for name in ('hidden_states', 'references') if name in kept}


class DecoderHook:
    """Calls a function with the :class:`Replay` of each call of a network's decoder, until it is removed."""

    def __init__(self, network: nn.Module, function: Callable[[nn.Module, tuple[Any, ...], Replay], None]) -> None:
        self.network = network
        decode: Any = getattr(network, DECODER)

        def noted(**kwargs: Any) -> Any:
            function(network, (), Replay(network, kwargs))
            return decode(**kwargs)

        vars(network)[DECODER] = noted

    def remove(self) -> None:
        """Call the network's own method again."""
        del vars(self.network)[DECODER]


class MethodHook:
    """Calls a function with ``(args, result)`` of each call of a module's method, until it is removed."""

    def __init__(self, module: nn.Module, name: str, function: Callable[[tuple[Any, Any]], None]) -> None:
        self.module, self.name = module, name
        method = getattr(module, name)

        def noted(*args: Any, **kwargs: Any) -> Any:
            found = method(*args, **kwargs)
            function((args, found))
            return found

        vars(module)[name] = noted

    def remove(self) -> None:
        """Call the module's own method again."""
        del vars(self.module)[self.name]


def metainfo_only(samples: Samples | None, inputs: Tensor) -> list[Any]:
    """Return samples of the pictures without labels; without samples, those of whole pictures."""
    from mmengine.structures import BaseDataElement

    if samples:
        return [BaseDataElement(metainfo=sample.metainfo) for sample in samples]
    size = tuple(inputs.shape[2:])
    meta = dict(ori_shape=size, img_shape=size, pad_shape=size, batch_input_shape=size, scale_factor=(1.0, 1.0))
    return [BaseDataElement(metainfo=meta) for _ in inputs]
