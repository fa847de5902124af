"""The modules of a network as a tree, with the taps to choose from, and those that ``'auto'`` would choose."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from mmengine.config import Config
from mmengine.registry import DefaultScope, init_default_scope
from rich.text import Text
from rich.tree import Tree
from torch import nn

from mmdistill_dense.apps.recipes.named import read_quietly
from mmdistill_dense.config.resolve import is_distill_model, load_model, model_of, student_option, teachers_of
from mmdistill_dense.foundation.vit import PatchMap
from mmdistill_dense.networks.auto_taps import DiscoveredTaps, discover, nothing_to_pair, pair_taps
from mmdistill_dense.networks.recording import run_parts
from mmdistill_dense.networks.taps import HEAD, Tap, flatten, heads_of, resolve_tap
from mmdistill_dense.networks.trace import DEFAULT_SIZE, Pass, TeacherOption, read_pass
from mmdistill_dense.utils.process import quiet, terminal
from mmdistill_dense.utils.validate import message_of, size_text

Size = Sequence[int]
_LEVELS = 5  # shapes that are shown of a module with more calls


@dataclass
class ModuleNode:
    """A module: where it is, the ``shapes`` that it gave in all calls, without the batch, and its taps."""

    path: str
    module: str
    parameters: int
    shapes: list[tuple[int, ...]]
    indexed: bool
    good: bool
    inside: list[ModuleNode]


def networks_of(config: Config, student: bool = False, teacher: bool = False) -> Iterator[tuple[str, TeacherOption]]:
    """Yield the title and the options of each network of a config, as options of a teacher: they build any network."""
    init_default_scope(config.get('default_scope') or 'mmengine')
    model = model_of(config)
    if not is_distill_model(model):
        if teacher:
            raise ValueError('this config has no teacher: its model is not a DistillModel.')
        yield 'model', TeacherOption('model', '', load_model(model, 'model'))
        return
    if not teacher:
        yield 'student', TeacherOption('model', '', load_model(student_option(model), 'model.student'))
    if not student:
        for key, option in teachers_of(model).items():
            yield key.replace('.', ' ', 1), TeacherOption.parse(option, f'model.{key}')


def list_taps(option: TeacherOption, size: Size | None = None, depth: int = 2, below: str = '') -> ModuleNode:
    """Run one picture through a network and return the tree of its modules."""
    height, width = size or _size_of(option) or DEFAULT_SIZE

    def read(passed: Pass) -> ModuleNode:
        modules = dict(passed.network.named_modules())
        if below not in modules:
            top = ', '.join(dict(passed.network.named_children()))
            raise KeyError(f'--below {below}: no such module; at the top are {top}.')
        passed.run(lambda: _run(passed))
        return _node(modules[below], below, passed, depth)

    with DefaultScope.overwrite_default_scope(option.config.scope), quiet():
        return read_pass(option.build, read, (height, width))


def _size_of(option: TeacherOption) -> Size | None:
    return (option.config.model.get('data_preprocessor') or {}).get('size')


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
    shapes = [tuple(tensor.shape[1:]) for tensor in flatten(calls)]
    # of the class scores, which the tap reads out of what the head returns
    is_scores = path == HEAD and resolve_tap(passed.network, Tap.parse(HEAD), 'tap').reads_scores
    indexed = len(calls) == 1 and isinstance(calls[0], (tuple, list)) and not is_scores
    children = module.named_children() if depth > 0 else ()
    inside = [_node(child, f'{path}.{name}' if path else name, passed, depth - 1) for name, child in children]
    inside = [child for child in inside if child.parameters or child.shapes or child.inside]
    parameters, good = sum(p.numel() for p in module.parameters()), is_scores or _is_good(module, path, shapes)
    return ModuleNode(path, type(module).__name__, parameters, shapes, indexed, good, inside)


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


def tree(title: str, node: ModuleNode, chosen: Collection[str] = ()) -> Tree:
    """Return a module and its children as a tree for a terminal, with good and with chosen taps marked."""
    marks = [tap.removeprefix(node.path) for tap in chosen if Tap.parse(tap).path == node.path]
    shapes = ', '.join(map(size_text, node.shapes[:_LEVELS]))
    more = f', … ({len(node.shapes)})' if len(node.shapes) > _LEVELS else ''
    line = Text.assemble((title, 'bold'), f' {node.module}  ', (f'{node.parameters:,}', 'dim'), f'  {shapes}{more}')
    if node.good:
        path, last = node.path, len(node.shapes) - 1
        taps = f'{path}, {path}:input' if path.endswith('conv_seg') else path
        taps = f'{path}[0] … {path}[{last}]' if node.indexed and last > 0 else taps
        line.append(f'   ◀ {taps}', 'green')
    if marks:
        line.append('   ★ ' + ' '.join(marks), 'cyan')
        line.rstrip()
    root = Tree(line)
    for child in node.inside:
        root.add(tree(child.path.rsplit('.', 1)[-1], child, chosen))
    return root


def auto_taps(config: Config, size: Size | None = None) -> tuple[list[str], dict[str, dict[str, None]]]:
    """Return what ``student_tap='auto'`` chooses between the student of a config, or its only model, and each teacher.

    Lines with the pairs and what was left out, or why nothing was found; and the taps by the title of their network.
    """
    lines, taps = list[str](), dict[str, dict[str, None]]()

    def discover_taps(option: TeacherOption, trains: bool = False) -> DiscoveredTaps:
        with DefaultScope.overwrite_default_scope(option.config.scope), quiet():
            return discover(option.build, (int(side[0]), int(side[1])) if side else None, trains)

    try:
        (name, student), *teachers = networks_of(config)
        side = size or _size_of(student)
        student_taps = discover_taps(student, trains=True)
        for title, teacher in teachers or [(name, student)]:
            other = discover_taps(teacher) if teachers else student_taps
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


def show_taps(args: argparse.Namespace) -> None:
    """Print the trees of the networks of a config, which the command ``taps`` asks for."""
    console = terminal()
    config = read_quietly(args.config, args.cfg_options)
    networks = list(networks_of(config, args.student, args.teacher))
    lines, taps = auto_taps(config, args.size)
    for title, network in [] if args.auto else networks:
        root = list_taps(network, args.size, args.depth, args.below)
        console.print(tree(title, root, taps.get(title, ())))
        console.print()
    if not args.below:
        console.print('\n'.join(lines), markup=False)
