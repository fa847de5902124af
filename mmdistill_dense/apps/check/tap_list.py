"""Taps of a check: the modules of a network to choose from, and what its distillers compare in one step."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import zip_longest
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope, init_default_scope
from rich.text import Text
from rich.tree import Tree
from torch import Tensor, nn

from mmdistill_dense.config.resolve import (
    ModelConfig,
    is_distill_model,
    load_model,
    model_of,
    student_option,
    teachers_of,
)
from mmdistill_dense.distillers.base import Distiller
from mmdistill_dense.distillers.feature import FeatureDistiller
from mmdistill_dense.foundation.vit import PatchMap
from mmdistill_dense.model.distill_model import Distilled, distillers_of
from mmdistill_dense.networks.auto_taps import Found, discover, nothing_to_pair, pair_taps
from mmdistill_dense.networks.building import move
from mmdistill_dense.networks.inputs import InputGrid
from mmdistill_dense.networks.modes import train_without_noise
from mmdistill_dense.networks.recording import Recorder, noting, run_parts
from mmdistill_dense.networks.taps import HEAD, Tap, find_module, flatten, heads_of, resolve_tap
from mmdistill_dense.networks.teacher import FrozenTeacher
from mmdistill_dense.networks.trace import DEFAULT_SIZE, SINGLE, Pass, TeacherOption, read_pass, trace_pair
from mmdistill_dense.utils.process import quiet
from mmdistill_dense.utils.reproducible import fork_rng
from mmdistill_dense.utils.runner_internals import Network, Samples
from mmdistill_dense.utils.validate import message_of, size_text

Shape = list[int]
Size = Sequence[int]
_LEVELS = 5  # shapes that are shown of a module with more calls


@dataclass
class TapRow:
    """A pair of compared tensors; ``aligned`` is the compared shape, ``None`` if the method compares in its own way."""

    distiller: str
    student_tap: str
    student_module: str
    student_shape: Shape
    teacher_tap: str
    teacher_module: str
    teacher_shape: Shape
    aligned: Shape | None = None


@dataclass
class Adapter:
    """A module that a distiller trains beside the student; ``output`` is the shape of its last output."""

    distiller: str
    name: str
    module: str
    parameters: int
    output: Shape | None = None


class Watch:
    """Notes what a model's distillers get and what their modules give, inside of :meth:`open`."""

    def __init__(self, model: Distilled, teachers: Mapping[str, FrozenTeacher]) -> None:
        self.model = model
        self.teachers = teachers
        self.distillers = distillers_of(model)
        self.given: dict[str, tuple[dict[str, list[Shape]], dict[str, list[Shape]]]] = {}
        self.outputs: dict[tuple[str, str], Shape] = {}
        self.flat: dict[str, None] = {}

    @contextmanager
    def open(self) -> Iterator[Watch]:
        with contextlib.ExitStack() as stack:
            for name, distiller in self.distillers.items():
                stack.enter_context(noting(distiller.named_modules(), partial(self._note, name)))
            yield self

    def rows(self) -> list[TapRow]:
        """Return the pairs in the order of the distillers and their taps."""
        return [row for name in self.distillers if name in self.given for row in self._rows(name)]

    def adapters(self) -> list[Adapter]:
        """Return the trained modules of all distillers; module lists are taken apart."""
        return [
            Adapter(name, path, type(part).__name__, _count(part), self.outputs.get((name, path)))
            for name, distiller in self.distillers.items()
            for path, part in _parts(distiller)
            if _count(part)
        ]

    def _rows(self, name: str) -> Iterator[TapRow]:
        distiller = self.distillers[name]
        student, teacher = self.given[name]
        frozen = self.teachers[str(distiller.teacher_name)].network
        assert frozen is not None, 'a checked teacher is loaded'
        level, missing = 0, list[int]()
        for s_tap, t_tap in zip(distiller.student_taps, distiller.teacher_taps, strict=True):
            modules = _class_of(self.model, s_tap), _class_of(frozen, t_tap)
            if distiller.teacher_gives:
                shape = student[str(s_tap)][0]
                yield TapRow(name, str(s_tap), modules[0], shape, distiller.teacher_gives, '', shape)
                continue
            for s, t in zip_longest(student[str(s_tap)], teacher[str(t_tap)], fillvalue=missing):
                aligned = self._aligned(distiller, level, s, t)
                yield TapRow(name, str(s_tap), modules[0], s, str(t_tap), modules[1], t, aligned)
                level += 1

    def _aligned(self, distiller: Distiller, level: int, student: Shape, teacher: Shape) -> Shape | None:
        if not isinstance(distiller, FeatureDistiller):
            return None
        own = self.outputs.get((distiller.name, f'aligns.{level}'), student)
        return [*own[:2], *teacher[2:]] if distiller.resize == 'student' else own

    def _note(self, name: str, path: str, given: tuple[Any, ...], output: Any) -> None:
        distiller = self.distillers[name]
        if path:
            if isinstance(output, Tensor) and not distiller.state.part:
                self.outputs[name, path] = list(output.shape)
            return
        student, teacher = (
            {str(tap): [list(tensor.shape) for tensor in found[str(tap)]] for tap in taps}
            for found, taps in zip(given, (distiller.student_taps, distiller.teacher_taps), strict=False)
        )
        self.given.setdefault(name, (student, teacher))  # a second call compares the pictures without labels
        for tap in distiller.teacher_taps:
            if all(_is_flat(tensor) for tensor in given[1][str(tap)]):
                self.flat[f'{name}: {tap}'] = None


def _parts(distiller: nn.Module, prefix: str = '') -> Iterator[tuple[str, nn.Module]]:
    for name, child in distiller.named_children():
        if isinstance(child, (nn.ModuleList, nn.ModuleDict)):
            yield from _parts(child, f'{prefix}{name}.')
        else:
            yield f'{prefix}{name}', child


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def _class_of(network: nn.Module, tap: Tap) -> str:
    return type(find_module(network, tap, 'tap')).__name__


def _is_flat(tensor: Tensor) -> bool:
    """Tell whether a map is the same at all its positions, so there is nothing to learn from it."""
    positions = tensor.detach().float().flatten(2) if tensor.dim() > 2 else tensor.detach().float().flatten()[None]
    return positions.shape[-1] > 1 and bool((torch.amax(positions, -1) == torch.amin(positions, -1)).all())


Inputs = Tensor | Sequence[Tensor]


def with_weights(option: TeacherOption, state: Mapping[str, Tensor]) -> Network:
    """Return a network with these weights, in eval mode."""
    network = option.build()
    network.load_state_dict(state)
    return network.requires_grad_(False)


@torch.no_grad()
def own_copy_gaps(
    config: ModelConfig,
    state: Mapping[str, Tensor],
    taps: Sequence[Tap],
    inputs: Inputs,
    data_samples: Samples,
) -> dict[str, float]:
    """Compare a training pass of a network with a pass of its frozen copy; norms and dropout are as in evaluation."""
    first = inputs if isinstance(inputs, Tensor) else inputs[0]
    option = TeacherOption('the copy', SINGLE, config)
    network: Any = with_weights(option, state)  # a student of pre-training takes views
    place = dict(device=first.device, dtype=first.dtype)
    with fork_rng():
        _, by_teacher = trace_pair(network, taps, {'copy': (option, taps)}, (first.shape[2], first.shape[3]))
        frozen = FrozenTeacher(option, by_teacher['copy'])
        frozen.adopt(move(with_weights(option, state), **place))
        train_without_noise(move(network, **place))
        recorder = Recorder(network, taps, 'tap')
        torch.manual_seed(0)
        with recorder.recording() as own:
            network.loss(inputs, copy.deepcopy(data_samples))
        recorder.check_complete()
        torch.manual_seed(1)
        other = frozen(inputs)
    return {str(tap): _gap(own[str(tap)], other[str(tap)]) for tap in taps}


def pair_gaps(model: Distilled, student: ModelConfig, inputs: Inputs, data_samples: Samples) -> dict[str, float]:
    """Return the gaps of a distilled model's taps and of its teachers', by ``'student_tap X'`` or ``'KEY tap X'``."""
    # RoI heads see other RoIs in each pass; some teachers have no training of their own, or not from these labels
    distillers = [one for one in distillers_of(model).values() if not one.extra_student_taps]
    gaps = {}
    taps = list(dict.fromkeys(tap for one in distillers for tap in one.student_taps))
    if taps:
        found = own_copy_gaps(student, model.state_dict(), taps, inputs, data_samples)
        gaps.update({f'student_tap {tap}': gap for tap, gap in found.items()})
    for teacher in model.distillation.teachers.values():
        if not teacher.taps or not hasattr(teacher.network, 'loss'):
            continue
        seen = teacher.renormalised(inputs) if isinstance(inputs, Tensor) else [teacher.renormalised(x) for x in inputs]
        with contextlib.suppress(Exception):  # other labels than it was made for
            found = own_copy_gaps(teacher.config, teacher.module('').state_dict(), teacher.taps, seen, data_samples)
            gaps.update({f'{teacher.key} tap {tap}': gap for tap, gap in found.items()})
    return gaps


def _gap(own: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    if [x.shape for x in own] != [y.shape for y in other]:
        return float('inf')
    gaps = [
        float((x.float() - y.float()).abs().max() / y.float().abs().max().clamp_min(1e-12))
        for x, y in zip(own, other, strict=True)
        if x.numel()
    ]
    return max(gaps, default=0.0)


# A network as a tree of modules


@dataclass
class ModuleNode:
    """A module: where it is, the ``shapes`` that it gave in all calls, without the batch, and its taps."""

    path: str
    module: str
    parameters: int
    shapes: list[tuple[int, ...]] = field(default_factory=list)
    indexed: bool = False
    good: bool = False
    chosen: list[str] = field(default_factory=list)
    inside: list[ModuleNode] = field(default_factory=list)

    @property
    def taps(self) -> str:
        """How its taps are written in a config."""
        if not self.good:
            return ''
        if self.indexed and len(self.shapes) > 1:
            return f'{self.path}[0] … {self.path}[{len(self.shapes) - 1}]'
        return f'{self.path}, {self.path}:input' if self.path.endswith('conv_seg') else self.path


def networks_of(
    config: Config, student: bool = False, teacher: bool = False
) -> Iterator[tuple[str, ModelConfig, InputGrid | None]]:
    """Yield title, resolved config and input grid of the networks of a config."""
    init_default_scope(config.get('default_scope', 'mmengine'))
    model = model_of(config)
    if not is_distill_model(model):
        if teacher:
            raise ValueError('this config has no teacher: its model is not a DistillModel.')
        yield 'model', load_model(model, 'model'), None
        return
    if not teacher:
        yield 'student', load_model(student_option(model), 'model.student'), None
    if not student:
        for key, option in teachers_of(model).items():
            parsed = TeacherOption.parse(option, f'model.{key}')
            yield key.replace('.', ' ', 1), parsed.config, parsed.grid


def list_taps(
    config: ModelConfig,
    size: Size | None = None,
    depth: int = 2,
    below: str = '',
    chosen: Collection[str] = (),
    grid: InputGrid | None = None,
) -> ModuleNode:
    """Run one picture through a network and return the tree of its modules."""
    option = TeacherOption('model', '', config, grid=grid)  # builds any network
    preprocessor = config.model.get('data_preprocessor') or {}
    height, width = size or preprocessor.get('size') or DEFAULT_SIZE
    with DefaultScope.overwrite_default_scope(config.scope), quiet():
        found = read_pass(option.build, lambda passed: _listed(passed, depth, below), (height, width))
    _mark(found, chosen)
    return found


def _mark(node: ModuleNode, chosen: Collection[str]) -> None:
    node.chosen = [tap for tap in chosen if Tap.parse(tap).path == node.path]
    for one in node.inside:
        _mark(one, chosen)


def _listed(passed: Pass, depth: int, below: str) -> ModuleNode:
    network = passed.network
    modules = dict(network.named_modules())
    if below not in modules:
        raise KeyError(f'--below {below}: no such module; at the top are {", ".join(dict(network.named_children()))}.')
    passed.run(lambda: _run(passed))
    found = _node(modules[below], below, passed, depth)
    for one in [found, *found.inside]:
        if one.path == HEAD and resolve_tap(network, Tap.parse(HEAD), 'tap').reads_scores:
            one.good, one.indexed = True, False  # the tap reads the class scores out of what the head returns
    return found


def _run(passed: Pass) -> None:
    """Run the network, and each of its heads that runs on features; of what ran before, the first calls count."""
    network, calls = passed.network, passed.calls
    run_parts(network, [], passed.inputs, heads=[])
    ran = {path.split('.')[0] for path in calls}
    for head in heads_of(network) if hasattr(network, 'extract_feat') else []:  # else it ran whole
        if head.path.split('.')[0] not in ran | {'data_preprocessor'}:
            before = {name: list(found) for name, found in calls.items() if name.split('.')[0] in ran}
            with contextlib.suppress(ValueError, TypeError, AttributeError, NotImplementedError, KeyError):
                run_parts(network, [], passed.inputs, rois=True, heads=[head.path])
            calls.update(before)


def _node(module: nn.Module, path: str, passed: Pass, depth: int) -> ModuleNode:
    calls = [output for _, output in passed.calls.get(path, [])]
    node = ModuleNode(path, type(module).__name__, sum(p.numel() for p in module.parameters()))
    node.indexed = len(calls) == 1 and isinstance(calls[0], (tuple, list))
    node.shapes = [tuple(tensor.shape[1:]) for tensor in flatten(calls)]
    node.good = _is_good(module, path, node.shapes)
    if depth > 0:
        children = [(f'{path}.{name}' if path else name, child) for name, child in module.named_children()]
        node.inside = [_node(child, name, passed, depth - 1) for name, child in children]
        node.inside = [one for one in node.inside if one.parameters or one.shapes or one.inside]
    return node


def _is_good(module: nn.Module, path: str, shapes: Sequence[tuple[int, ...]]) -> bool:
    """Tell whether methods usually compare this output: a map at the end of a part, a stage or a head."""
    if not path or not shapes or any(len(shape) != 3 for shape in shapes):
        return False
    if isinstance(module, PatchMap):
        return True
    first, *rest = path.split('.')
    if first not in ('backbone', 'neck'):
        return isinstance(module, nn.Conv2d) and first != 'patch_embed'  # heads as a whole give lists of lists
    stage = first == 'backbone' and len(rest) == 1 and isinstance(module, nn.Sequential)
    return not rest or (stage and rest != ['stem'])


def tree(title: str, node: ModuleNode) -> Tree:
    """Return a module and its children as a tree for a terminal, with good and with chosen taps marked."""
    root = Tree(_line(node, title))
    for one in node.inside:
        root.add(tree(one.path.rsplit('.', 1)[-1], one))
    return root


def _line(node: ModuleNode, title: str) -> Text:
    shapes = ', '.join(map(size_text, node.shapes[:_LEVELS]))
    more = f', … ({len(node.shapes)})' if len(node.shapes) > _LEVELS else ''
    line = Text.assemble((title, 'bold'), f' {node.module}  ', (f'{node.parameters:,}', 'dim'), f'  {shapes}{more}')
    if node.good:
        line.append(f'   ◀ {node.taps}', 'green')
    if node.chosen:
        line.append('   ★ ' + ' '.join(tap.removeprefix(node.path) for tap in node.chosen), 'cyan')
        line.rstrip()
    return line


class AutoTaps:
    """What ``student_tap='auto'`` chooses between the student of a config, or its only model, and each teacher."""

    def __init__(self, config: Config, size: Size | None = None) -> None:
        self.lines: list[str] = []  # for each teacher the pairs and what was left out; or why nothing was found
        self._taps: dict[str, dict[str, None]] = {}
        try:
            (own, student, _), *teachers = networks_of(config)
            given = size or (student.model.get('data_preprocessor') or {}).get('size')
            self._size = (int(given[0]), int(given[1])) if given else None
            found = self._discover(student, trains=True)
            for title, teacher, grid in teachers:
                self._add(own, title, found, self._discover(teacher, grid))
            if not teachers:
                self._add(own, own, found, found)
        except Exception as error:  # the tree of modules is shown without
            self.lines.append(f"student_tap='auto': {message_of(error)}")

    def taps(self, title: str) -> list[str]:
        return list(self._taps.get(title, {}))

    def _discover(self, config: ModelConfig, grid: InputGrid | None = None, trains: bool = False) -> Found:
        with DefaultScope.overwrite_default_scope(config.scope), quiet():
            return discover(TeacherOption('model', '', config, grid=grid).build, self._size, trains)

    def _add(self, own: str, title: str, student: Found, teacher: Found) -> None:
        chosen = pair_taps(student, teacher)
        if not chosen.pairs:
            raise nothing_to_pair('model.distillers.NAME', student, teacher, chosen)
        for name, taps in (
            (own, (pair.student.tap for pair in chosen.pairs)),
            (title, (pair.teacher.tap for pair in chosen.pairs)),
        ):
            self._taps.setdefault(name, {}).update(dict.fromkeys(taps))
        self.lines.append(f"★ student_tap='auto', {title}:")
        for pair in chosen.pairs:
            self.lines.append(f'    {pair.student}' + ('' if pair.student == pair.teacher else f' -> {pair.teacher}'))
        self.lines += [f'    left out: {note}' for note in chosen.notes]
