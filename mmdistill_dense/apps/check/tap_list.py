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
from mmdistill_dense.distillers.feature import FeatureDistiller
from mmdistill_dense.foundation.vit import PatchMap
from mmdistill_dense.model.distill_model import Distilled, distillers_of
from mmdistill_dense.networks.auto_taps import Found, discover, nothing_to_pair, pair_taps
from mmdistill_dense.networks.building import move
from mmdistill_dense.networks.inputs import InputGrid
from mmdistill_dense.networks.modes import train_without_noise
from mmdistill_dense.networks.recording import Recorder, noting, run_parts
from mmdistill_dense.networks.taps import HEAD, Tap, flatten, heads_of, resolve_tap
from mmdistill_dense.networks.teacher import FrozenTeacher
from mmdistill_dense.networks.trace import DEFAULT_SIZE, SINGLE, Pass, TeacherOption, read_pass, trace_pair
from mmdistill_dense.utils.process import quiet
from mmdistill_dense.utils.reproducible import fork_rng
from mmdistill_dense.utils.runner_internals import Samples
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
        self.model, self.teachers, self.distillers = model, teachers, distillers_of(model)
        self.tap_inputs: dict[str, tuple[dict[str, list[Shape]], dict[str, list[Shape]]]] = {}
        self.outputs: dict[tuple[str, str], Shape] = {}

    @contextmanager
    def open(self) -> Iterator[Watch]:
        with contextlib.ExitStack() as stack:
            for name, distiller in self.distillers.items():
                stack.enter_context(noting(distiller.named_modules(), partial(self._note, name)))
            yield self

    def _note(self, name: str, path: str, arguments: tuple[Any, ...], output: Any) -> None:
        distiller = self.distillers[name]
        if path:
            if isinstance(output, Tensor) and not distiller.state.part:
                self.outputs[name, path] = list(output.shape)
            return
        student, teacher = (
            {str(tap): [list(tensor.shape) for tensor in maps[str(tap)]] for tap in taps}
            for maps, taps in zip(arguments, (distiller.student_taps, distiller.teacher_taps), strict=False)
        )
        self.tap_inputs.setdefault(name, (student, teacher))  # a second call compares the pictures without labels

    def rows(self) -> Iterator[TapRow]:
        """Yield the compared pairs in the order of the distillers and their taps."""
        for name in filter(self.tap_inputs.__contains__, self.distillers):
            (student, teacher), distiller, level = self.tap_inputs[name], self.distillers[name], 0
            frozen = self.teachers[str(distiller.teacher_name)].network
            assert frozen is not None, 'a checked teacher is loaded'
            for s_tap, t_tap in zip(distiller.student_taps, distiller.teacher_taps, strict=True):
                kind = type(resolve_tap(self.model, s_tap, 'tap').module).__name__
                if distiller.teacher_gives:
                    shape = student[str(s_tap)][0]
                    yield TapRow(name, str(s_tap), kind, shape, distiller.teacher_gives, '', shape)
                    continue
                of_teacher = type(resolve_tap(frozen, t_tap, 'tap').module).__name__
                for s, t in zip_longest(student[str(s_tap)], teacher[str(t_tap)], fillvalue=list[int]()):
                    aligned = None
                    if isinstance(distiller, FeatureDistiller):
                        aligned = self.outputs.get((name, f'aligns.{level}'), s)
                        aligned = [*aligned[:2], *t[2:]] if distiller.resize == 'student' else aligned
                    yield TapRow(name, str(s_tap), kind, s, str(t_tap), of_teacher, t, aligned)
                    level += 1

    def adapters(self) -> Iterator[Adapter]:
        """Yield the trained modules of all distillers; module lists are taken apart."""
        for name, distiller in self.distillers.items():
            for path, part in _parts(distiller):
                if count := sum(parameter.numel() for parameter in part.parameters() if parameter.requires_grad):
                    yield Adapter(name, path, type(part).__name__, count, self.outputs.get((name, path)))


def _parts(distiller: nn.Module, prefix: str = '') -> Iterator[tuple[str, nn.Module]]:
    for name, child in distiller.named_children():
        if isinstance(child, (nn.ModuleList, nn.ModuleDict)):
            yield from _parts(child, f'{prefix}{name}.')
        else:
            yield f'{prefix}{name}', child


Inputs = Tensor | Sequence[Tensor]


@torch.no_grad()
def copy_gaps(
    config: ModelConfig,
    state: Mapping[str, Tensor],
    taps: Sequence[Tap],
    inputs: Inputs,
    data_samples: Samples,
) -> dict[str, float]:
    """Compare a training pass of a network with a pass of its frozen copy; norms and dropout are as in evaluation."""
    images = inputs if isinstance(inputs, Tensor) else inputs[0]
    option = TeacherOption('the copy', SINGLE, config)
    with fork_rng():
        network, copied = (option.build().requires_grad_(False) for _ in range(2))
        for built in (network, copied):
            built.load_state_dict(state)
            move(built, device=images.device, dtype=images.dtype)
        _, by_teacher = trace_pair(network, taps, {'copy': (option, taps)}, (images.shape[2], images.shape[3]))
        frozen = FrozenTeacher(option, by_teacher['copy'])
        frozen.adopt(copied)
        train_without_noise(network)
        recorder = Recorder(network, taps, 'tap')
        torch.manual_seed(0)
        with recorder.recording() as outputs:
            network.loss(inputs, copy.deepcopy(data_samples))  # type: ignore[arg-type]  # pre-training takes views
        recorder.check_complete()
        torch.manual_seed(1)
        other = frozen(inputs)
    return {str(tap): _gap(outputs[str(tap)], other[str(tap)]) for tap in taps}


def pair_gaps(model: Distilled, student: ModelConfig, inputs: Inputs, data_samples: Samples) -> dict[str, float]:
    """Return the gaps of a distilled model's taps and of its teachers', by ``'student_tap X'`` or ``'KEY tap X'``."""
    # RoI heads see other RoIs in each pass; some teachers have no training of their own, or not from these labels
    distillers = [distiller for distiller in distillers_of(model).values() if not distiller.extra_student_taps]
    gaps = {}
    taps = list(dict.fromkeys(tap for distiller in distillers for tap in distiller.student_taps))
    if taps:
        tap_gaps = copy_gaps(student, model.state_dict(), taps, inputs, data_samples)
        gaps.update({f'student_tap {tap}': gap for tap, gap in tap_gaps.items()})
    for teacher in model.distillation.teachers.values():
        if not teacher.taps or not hasattr(teacher.network, 'loss'):
            continue
        adapt = teacher.renormalised
        views = adapt(inputs) if isinstance(inputs, Tensor) else [adapt(view) for view in inputs]
        with contextlib.suppress(Exception):  # other labels than it was made for
            tap_gaps = copy_gaps(teacher.config, teacher.module('').state_dict(), teacher.taps, views, data_samples)
            gaps.update({f'{teacher.key} tap {tap}': gap for tap, gap in tap_gaps.items()})
    return gaps


def _gap(outputs: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    if [x.shape for x in outputs] != [y.shape for y in other]:
        return float('inf')
    pairs = ((x.float(), y.float()) for x, y in zip(outputs, other, strict=True) if x.numel())
    return max((float((x - y).abs().max() / y.abs().max().clamp_min(1e-12)) for x, y in pairs), default=0.0)


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

    def nodes(self) -> Iterator[ModuleNode]:
        yield self
        for child in self.inside:
            yield from child.nodes()

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
    init_default_scope(config.get('default_scope') or 'mmengine')
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
        root = read_pass(option.build, lambda passed: _module_tree(passed, depth, below), (height, width))
    for node in root.nodes():
        node.chosen = [tap for tap in chosen if Tap.parse(tap).path == node.path]
    return root


def _module_tree(passed: Pass, depth: int, below: str) -> ModuleNode:
    network = passed.network
    modules = dict(network.named_modules())
    if below not in modules:
        raise KeyError(f'--below {below}: no such module; at the top are {", ".join(dict(network.named_children()))}.')
    passed.run(lambda: _run(passed))
    root = _node(modules[below], below, passed, depth)
    for node in [root, *root.inside]:
        if node.path == HEAD and resolve_tap(network, Tap.parse(HEAD), 'tap').reads_scores:
            node.good, node.indexed = True, False  # the tap reads the class scores out of what the head returns
    return root


def _run(passed: Pass) -> None:
    """Run the network, and each of its heads that runs on features; of what ran before, the first calls count."""
    network, calls = passed.network, passed.calls
    run_parts(network, [], passed.inputs, heads=[])
    ran = {path.split('.')[0] for path in calls}
    for head in heads_of(network) if hasattr(network, 'extract_feat') else []:  # else it ran whole
        runs = type(head.module).forward is not nn.Module.forward  # mmdet's fusion heads only post-process
        if runs and head.path.split('.')[0] not in ran | {'data_preprocessor'}:
            before = {name: list(outputs) for name, outputs in calls.items() if name.split('.')[0] in ran}
            with contextlib.suppress(ValueError, AttributeError):  # it needs more than features, or is no head
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
        node.inside = [child for child in node.inside if child.parameters or child.shapes or child.inside]
    return node


def _is_good(module: nn.Module, path: str, shapes: Sequence[tuple[int, ...]]) -> bool:
    """Tell whether methods usually compare this output: a map at the end of a part, a stage or a head."""
    if not path or not shapes or any(len(shape) != 3 for shape in shapes):
        return False
    if isinstance(module, PatchMap):
        return True
    top, *remainder = path.split('.')
    if top not in ('backbone', 'neck'):
        return isinstance(module, nn.Conv2d) and top != 'patch_embed'  # heads as a whole give lists of lists
    stage = top == 'backbone' and len(remainder) == 1 and isinstance(module, nn.Sequential)
    return not remainder or (stage and remainder != ['stem'])


def tree(title: str, node: ModuleNode) -> Tree:
    """Return a module and its children as a tree for a terminal, with good and with chosen taps marked."""
    shapes = ', '.join(map(size_text, node.shapes[:_LEVELS]))
    more = f', … ({len(node.shapes)})' if len(node.shapes) > _LEVELS else ''
    line = Text.assemble((title, 'bold'), f' {node.module}  ', (f'{node.parameters:,}', 'dim'), f'  {shapes}{more}')
    if node.good:
        line.append(f'   ◀ {node.taps}', 'green')
    if node.chosen:
        line.append('   ★ ' + ' '.join(tap.removeprefix(node.path) for tap in node.chosen), 'cyan')
        line.rstrip()
    root = Tree(line)
    for child in node.inside:
        root.add(tree(child.path.rsplit('.', 1)[-1], child))
    return root


def auto_taps(config: Config, size: Size | None = None) -> tuple[list[str], dict[str, dict[str, None]]]:
    """Return what ``student_tap='auto'`` chooses between the student of a config, or its only model, and each teacher.

    Lines with the pairs and what was left out, or why nothing was found; and the taps by the title of their network.
    """
    lines, taps = list[str](), dict[str, dict[str, None]]()

    def discover_taps(option: ModelConfig, grid: InputGrid | None = None, trains: bool = False) -> Found:
        with DefaultScope.overwrite_default_scope(option.scope), quiet():
            return discover(TeacherOption('model', '', option, grid=grid).build, side, trains)

    try:
        (name, student, _), *teachers = networks_of(config)
        size_option = size or (student.model.get('data_preprocessor') or {}).get('size')
        side = (int(size_option[0]), int(size_option[1])) if size_option else None
        student_taps = discover_taps(student, trains=True)
        for title, teacher, grid in teachers or [(name, student, None)]:
            other = discover_taps(teacher, grid) if teachers else student_taps
            chosen = pair_taps(student_taps, other)
            if not chosen.pairs:
                raise nothing_to_pair('model.distillers.NAME', student_taps, other, chosen)
            lines.append(f"★ student_tap='auto', {title}:")
            for pair in chosen.pairs:
                taps.setdefault(name, {})[pair.student.tap] = taps.setdefault(title, {})[pair.teacher.tap] = None
                same = pair.student == pair.teacher
                lines.append(f'    {pair.student}' + ('' if same else f' -> {pair.teacher}'))
            lines += [f'    left out: {note}' for note in chosen.notes]
    except Exception as error:  # the tree of modules is shown without
        lines.append(f"student_tap='auto': {message_of(error)}")
    return lines, taps
