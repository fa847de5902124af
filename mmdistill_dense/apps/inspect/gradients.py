"""``diagnose``: value and gradient of each loss term of a config on real batches."""

from __future__ import annotations

import argparse
import contextlib
import copy
import itertools
import math
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn

from mmdistill_dense.apps.commands.training import build_runner, load_config
from mmdistill_dense.distillers.maskd.token_distiller import FOLDER
from mmdistill_dense.engine import DistillHook
from mmdistill_dense.losses.tensors import sum_dtype
from mmdistill_dense.model.balanced_step import TASK, ParameterGroups, backbone_parameters, flat_gradients, split_terms
from mmdistill_dense.model.distill_model import Distilled, distillers_of
from mmdistill_dense.networks.modes import untouched
from mmdistill_dense.networks.recording import Recorder
from mmdistill_dense.unlabelled.stream import UnlabelledStream
from mmdistill_dense.utils.distributed import mean_over_ranks, unwrap
from mmdistill_dense.utils.files import check_writable, without_nan, write_json
from mmdistill_dense.utils.process import interruptible
from mmdistill_dense.utils.reproducible import without_workers
from mmdistill_dense.utils.runner_internals import Network
from mmdistill_dense.weights.strict_load import read_checkpoint

BACKBONE = 'backbone'
TAP = 'tap '  # before the name of a tapped map


@dataclass(frozen=True)
class Pull:
    norm: float  # its L2 norm
    share: float  # that norm over the sum of the norms of all terms there; 0 if all are zero
    cosine: float  # with the task's gradient at the same place; NaN where either is zero or there is no task


@dataclass(frozen=True)
class Term:
    """One term of the loss of a batch."""

    name: str  # ``'task'`` for the student's own losses together, else ``'distill.<distiller>.loss_…'``
    value: float  # as it is summed, with its weights
    share: float  # of the total loss
    # by place: ``'backbone'`` (all its trained parameters) and each tapped map, as ``'tap <name>'``
    pulls: Mapping[str, Pull]


def pulls_of(losses: Mapping[str, Any], places: ParameterGroups, scale: float = 1.0) -> list[Term]:
    """Measure the terms of a loss by its graph, which is kept, with a backward pass each; no ``.grad`` is touched."""
    terms = split_terms(losses)
    if not terms:
        return []
    rows: list[Tensor] = []
    own: dict[str, Tensor] = {}
    for name in sorted(terms, key=lambda name: name != TASK):  # all others are compared with the task's
        found = flat_gradients(scale * terms[name], places)
        own = found if name == TASK else own
        value = terms[name].detach()
        rows.append(torch.stack([value.to(sum_dtype(value)), *_norms_and_products(found, own, scale)]))
    numbers = mean_over_ranks(torch.stack([row.to(rows[0].device) for row in rows])).tolist()
    values = dict(zip(sorted(terms, key=lambda name: name != TASK), numbers, strict=True))
    return _assemble({name: values[name] for name in terms}, list(places))


def measure_gradients(model: Network, data: Mapping[str, Any], places: ParameterGroups | None = None) -> list[Term]:
    """Measure the terms of a training step on one batch, and leave everything as it was.

    One forward pass in training mode and in the parameters' own precision (no autocast), one backward pass per term.
    Weights, ``.grad``, buffers (batch statistics, queues), modes, random streams and the batch stay as they are;
    mmseg's and mmdet's activation checkpointing (``with_cp``) is off in that pass.
    """
    model = unwrap(model)
    active = [one for one in distillers_of(model).values() if one.weight() != 0]
    taps = list(dict.fromkeys(tap for one in active for tap in one.student_taps))
    recorders = [Recorder(model, taps, 'student_tap', copies=copies) for copies in (False, True)]
    with contextlib.ExitStack() as stack:
        for context in (untouched(model), _ready(model), torch.enable_grad()):
            stack.enter_context(context)
        model.train()
        ready = model.data_preprocessor(copy.deepcopy(data), True)
        maps, as_recorded = (stack.enter_context(one.recording()) for one in recorders)
        with torch.autocast(next(model.parameters()).device.type, enabled=False):
            losses = model(**ready, mode='loss')
        for name, tensors in as_recorded.items():
            if not all(map(torch.equal, tensors, maps[name])):  # overwritten after the comparison: nothing to measure
                del maps[name]
        tapped = {f'{TAP}{name}': tensors for name, tensors in maps.items()}
        return pulls_of(losses, {BACKBONE: backbone_parameters(model), **(places or {}), **tapped})


def mean_terms(batches: Sequence[Sequence[Term]]) -> list[Term]:
    """Return the terms averaged over batches, each number over the batches in which it is finite."""
    by_name: dict[str, list[Term]] = {}
    for term in itertools.chain(*batches):
        by_name.setdefault(term.name, []).append(term)
    keys, means = ('norm', 'share', 'cosine'), []
    for name, found in by_name.items():
        places = list(found[0].pulls)
        pulls = {place: Pull(*(_mean(getattr(t.pulls[place], key) for t in found) for key in keys)) for place in places}
        means.append(Term(name, _mean(t.value for t in found), _mean(t.share for t in found), pulls))
    return means


def _mean(numbers: Iterator[float]) -> float:
    finite = [number for number in numbers if math.isfinite(number)]
    return fmean(finite) if finite else math.nan


def _norms_and_products(found: Mapping[str, Tensor], task: Mapping[str, Tensor], scale: float) -> list[Tensor]:
    """Return for each place the norm and the cosine with the task's gradient."""
    numbers = []
    for name, gradient in found.items():
        exact = sum_dtype(gradient)
        norm = torch.linalg.vector_norm(gradient, dtype=exact)
        numbers.append(norm / scale)
        if name in task:
            other = torch.linalg.vector_norm(task[name], dtype=exact)
            product = (gradient.to(exact) * task[name].to(exact)).sum()
            numbers.append(torch.where(norm * other > 0, product / (norm * other), math.nan))
        else:
            numbers.append(norm.new_full((), math.nan))
    return numbers


def _assemble(values: Mapping[str, Sequence[float]], places: Sequence[str]) -> list[Term]:
    total = sum(row[0] for row in values.values())
    norms = [sum(row[1 + 2 * i] for row in values.values()) for i in range(len(places))]
    terms = []
    for name, row in values.items():
        pulls = {
            place: Pull(row[1 + 2 * i], row[1 + 2 * i] / norms[i] if norms[i] else 0.0, row[2 + 2 * i])
            for i, place in enumerate(places)
        }
        terms.append(Term(name, row[0], row[0] / total if total else 0.0, pulls))
    return terms


@contextlib.contextmanager
def _ready(model: nn.Module) -> Iterator[None]:
    """Let a model run without a runner, and without recomputing activations."""
    distillation = getattr(model, 'distillation', None)
    started = getattr(distillation, 'started', False)
    recomputing: list[Any] = [module for module in model.modules() if getattr(module, 'with_cp', False) is True]
    try:
        if distillation is not None:
            distillation.started = True
        for module in recomputing:
            module.with_cp = False
        yield
    finally:
        if distillation is not None:
            distillation.started = started
        for module in recomputing:
            module.with_cp = True


_UNTRAINED = (
    'the checkpoint holds no distillers (it is from a control, save_best or an export): their own parameters, such as '
    'alignments, are untrained here, and the iteration is 0'
)


def diagnose_command(args: argparse.Namespace) -> None:
    if args.json:
        check_writable(args.json, '--json')
    console = Console()
    batches = diagnose(load_config(args), args.checkpoint, args.batches, args.iteration, args.stages)
    console.print(table_of(batches, args.taps))
    if args.json:
        write_json(Path(args.json), without_nan([[asdict(term) for term in terms] for terms in batches]))


def diagnose(
    config: Config, checkpoint: str | None = None, batches: int = 8, iteration: int | None = None, stages: bool = False
) -> list[list[Term]]:
    """Return the terms of batches (after Ctrl-C: those so far), measured where a run would start; write nothing."""
    if batches < 1:
        raise ValueError(f'--batches must be at least 1, got {batches}.')
    config.log_level = 'WARNING'
    config.train_dataloader = without_workers(config.train_dataloader)
    if checkpoint is not None:
        config.load_from, config.resume = checkpoint, 'distillers' in read_checkpoint(checkpoint)
    hook = MeasureInstead(batches, iteration, stages)
    with tempfile.TemporaryDirectory() as folder:
        tokens = Path(config.get('work_dir') or '.', FOLDER)
        if tokens.is_dir():
            shutil.copytree(tokens, Path(folder, FOLDER))
        config.work_dir = folder  # a runner writes its config and a log
        # A visualizer whose name exists would be reused with its folder; this one is new and draws nowhere.
        config.visualizer = dict(type='mmengine.Visualizer', name=folder)
        runner = build_runner(config)
        for one in runner.hooks:
            if isinstance(one, DistillHook):
                one.resume_file.tells = False
        if checkpoint is not None and not config.resume:
            runner.logger.warning(f'{checkpoint}: {_UNTRAINED}.')
        runner.register_hook(hook)
        with contextlib.suppress(_Measured):
            runner.train()
    return hook.found


class _Measured(Exception):
    """Raised to end a run before its first iteration."""


class MeasureInstead(Hook):
    """Measures the loss on some batches in place of training, then ends the run; see :func:`diagnose`."""

    priority = 'LOWEST'

    def __init__(self, batches: int, iteration: int | None = None, stages: bool = False) -> None:
        self.batches, self.iteration, self.stages = batches, iteration, stages
        self.found: list[list[Term]] = []

    def before_train(self, runner: Runner) -> None:
        model: Any = unwrap(runner.model)
        if self.iteration is not None and isinstance(model, Distilled):
            model.distillation.state.iteration = self.iteration
        data = itertools.islice(runner.train_dataloader, self.batches)
        console = Console(stderr=True)
        distills = isinstance(model, Distilled)
        parts = [part for hook in runner.hooks if distills and isinstance(hook, DistillHook) for part in hook.parts]
        streams = [part for part in parts if isinstance(part, UnlabelledStream)]
        children = getattr(model, 'backbone', nn.Module()).named_children() if self.stages else ()
        stages = {f'backbone.{name}': [p for p in one.parameters() if p.requires_grad] for name, one in children}
        stages = {name: parameters for name, parameters in stages.items() if parameters}
        try:
            with interruptible():
                for number, batch in enumerate(track(data, 'batches', self.batches, console=console, transient=True)):
                    for stream in streams:
                        stream.draw(runner, ahead=number)
                    self.found.append(measure_gradients(model, batch, stages))
        except KeyboardInterrupt:
            if not self.found:
                raise
        for stream in streams:
            stream.after_train(runner)  # ends its workers
        raise _Measured


def table_of(batches: Sequence[Sequence[Term]], taps: bool = False) -> Table:
    """Return a table of means over batches, with a row for each term and place."""
    table = Table(title=f'mean over {len(batches)} batches (±: standard deviation)')
    table.add_column('term', overflow='fold')
    for title in ('loss', 'share'):
        table.add_column(title, justify='right', no_wrap=True)
    table.add_column('gradient at', overflow='fold')
    for title in ('norm', 'share', 'cosine with task'):
        table.add_column(title, justify='right', no_wrap=True)
    for term in mean_terms(batches):
        head = [term.name, f'{term.value:.4g}', f'{term.share:.1%}']
        for place, pull in term.pulls.items():
            if taps or not place.startswith(TAP):
                alike = (one for one in itertools.chain(*batches) if one.name == term.name)
                cosines = [cosine for one in alike if math.isfinite(cosine := one.pulls[place].cosine)]
                said = f'{fmean(cosines):+.3f} ± {pstdev(cosines):.3f}' if cosines else '-'
                said = '' if term.name == TASK else said
                table.add_row(*head, place, f'{pull.norm:.3g}', f'{pull.share:.1%}', said)
                head = ['', '', '']
        table.add_section()
    return table
