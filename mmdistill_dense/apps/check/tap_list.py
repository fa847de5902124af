"""The module tree of a network with output shapes, to choose taps from."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

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
from mmdistill_dense.foundation.vit import PatchMap
from mmdistill_dense.networks.auto_taps import Found, discover, nothing_to_pair, pair_taps
from mmdistill_dense.networks.inputs import InputGrid
from mmdistill_dense.networks.modes import run_as_trained
from mmdistill_dense.networks.recording import noting, run_parts
from mmdistill_dense.networks.taps import HEAD, Tap, find_place, flatten
from mmdistill_dense.networks.trace import DEFAULT_SIZE, TeacherOption, read_pass
from mmdistill_dense.utils.messages import message_of, size_text
from mmdistill_dense.utils.quiet import quiet
from mmdistill_dense.utils.runner_internals import Network

Size = Sequence[int]
_LEVELS = 5  # shapes that are shown of a module with more calls


@dataclass
class Place:
    """A module: where it is, the ``shapes`` that it gave in all calls, without the batch, and its taps."""

    path: str
    module: str
    parameters: int
    shapes: list[tuple[int, ...]] = field(default_factory=list)
    indexed: bool = False
    good: bool = False
    chosen: list[str] = field(default_factory=list)
    inside: list[Place] = field(default_factory=list)

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
) -> Place:
    """Run one picture through a network and return the tree of its modules."""
    option = TeacherOption('model', '', config, grid=grid)  # builds any network
    preprocessor = config.model.get('data_preprocessor') or {}
    height, width = size or preprocessor.get('size') or DEFAULT_SIZE
    with DefaultScope.overwrite_default_scope(config.scope), quiet():
        found = read_pass(option.build, lambda network, inputs: _listed(network, inputs, depth, below), (height, width))
    _mark(found, chosen)
    return found


def _mark(place: Place, chosen: Collection[str]) -> None:
    place.chosen = [tap for tap in chosen if Tap.parse(tap).path == place.path]
    for one in place.inside:
        _mark(one, chosen)


def _listed(network: Network, inputs: Tensor, depth: int, below: str) -> Place:
    modules = dict(network.named_modules())
    if below not in modules:
        raise KeyError(f'--below {below}: no such module; at the top are {", ".join(dict(network.named_children()))}.')
    outputs = run_as_trained(network, lambda: _run(network, inputs))
    found = _place(modules[below], below, outputs, depth)
    for one in [found, *found.inside]:
        if one.path == HEAD and find_place(network, Tap.parse(HEAD), 'tap').reads_scores:
            one.good, one.indexed = True, False  # the tap reads the class scores out of what the head returns
    return found


def _run(network: Network, inputs: Tensor) -> dict[str, list[Any]]:
    """Return the outputs of each module in all of its calls, by path."""
    found: dict[str, list[Any]] = {}
    with noting(network.named_modules(), lambda path, _, output: found.setdefault(path, []).append(output)):
        run_parts(network, [], inputs, heads=[])
        ran = set(found)
        for path in _heads(network) if hasattr(network, 'extract_feat') else []:  # else it ran whole
            if path.split('.')[0] not in ran:
                before = {name: list(calls) for name, calls in found.items()}
                with contextlib.suppress(ValueError, TypeError, AttributeError, NotImplementedError, KeyError):
                    run_parts(network, [], inputs, rois=True, heads=[path])
                found.update({name: calls for name, calls in before.items() if name.split('.')[0] in ran})
    return found


def _heads(network: nn.Module) -> list[str]:
    heads = []
    for name, child in network.named_children():
        if isinstance(child, nn.ModuleList):
            heads += [f'{name}.{index}' for index in range(len(child))]
        elif name != 'data_preprocessor':
            heads.append(name)
    return heads


def _place(module: nn.Module, path: str, outputs: dict[str, list[Any]], depth: int) -> Place:
    calls = outputs.get(path, [])
    place = Place(path, type(module).__name__, sum(p.numel() for p in module.parameters()))
    place.indexed = len(calls) == 1 and isinstance(calls[0], (tuple, list))
    place.shapes = [tuple(tensor.shape[1:]) for tensor in flatten(calls)]
    place.good = _is_good(module, path, place.shapes)
    if depth > 0:
        children = [(f'{path}.{name}' if path else name, child) for name, child in module.named_children()]
        place.inside = [_place(child, name, outputs, depth - 1) for name, child in children]
        place.inside = [one for one in place.inside if one.parameters or one.shapes or one.inside]
    return place


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


def tree(title: str, place: Place) -> Tree:
    """Return a module and its children as a tree for a terminal, with good and with chosen taps marked."""
    root = Tree(_line(place, title))
    for one in place.inside:
        root.add(tree(one.path.rsplit('.', 1)[-1], one))
    return root


def _line(place: Place, title: str) -> Text:
    shapes = ', '.join(map(size_text, place.shapes[:_LEVELS]))
    more = f', … ({len(place.shapes)})' if len(place.shapes) > _LEVELS else ''
    line = Text.assemble((title, 'bold'), f' {place.module}  ', (f'{place.parameters:,}', 'dim'), f'  {shapes}{more}')
    if place.good:
        line.append(f'   ◀ {place.taps}', 'green')
    if place.chosen:
        line.append('   ★ ' + ' '.join(tap.removeprefix(place.path) for tap in place.chosen), 'cyan')
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
