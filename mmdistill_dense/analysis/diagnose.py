"""``tools/diagnose.py``: measure the gradient of each loss term of a config on several real batches."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import math
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import nn

from mmdistill_dense.analysis.gradients import TAP, Term, mean_terms, measure_gradients
from mmdistill_dense.distillers.maskd.prepare_tokens import FOLDER
from mmdistill_dense.engine import DistillHook
from mmdistill_dense.engine.commands import build_runner, common_parser, load_config
from mmdistill_dense.engine.unlabelled_stream import UnlabelledStream
from mmdistill_dense.model.distill_model import Distilled
from mmdistill_dense.model.term_gradients import TASK, Places
from mmdistill_dense.utils.atomic import check_writable, without_nan, write_text
from mmdistill_dense.utils.distributed import unwrap
from mmdistill_dense.utils.reproducible import without_workers
from mmdistill_dense.weights.strict_load import read_checkpoint

_UNTRAINED = (
    'the checkpoint holds no distillers (it is from a control, save_best or an export): their own parameters, such as '
    'alignments, are untrained here, and the iteration is 0'
)


def main_diagnose(argv: Sequence[str] | None = None) -> None:
    """Measure the terms of the loss and print a table.

    Args:
        argv: The command line without the program's name. Defaults to that of this process.
    """
    parser = _parser()
    args = parser.parse_args(argv)
    if args.json:
        try:
            check_writable(args.json, '--json')
        except ValueError as error:
            parser.error(str(error))
    console = Console()
    batches = diagnose(load_config(args), args.checkpoint, args.batches, args.iteration, args.stages)
    console.print(table_of(batches, args.taps))
    if args.json:
        found = without_nan([[asdict(term) for term in terms] for terms in batches])
        write_text(args.json, json.dumps(found, indent=1, allow_nan=False))


def diagnose(
    config: Config, checkpoint: str | None = None, batches: int = 8, iteration: int | None = None, stages: bool = False
) -> list[list[Term]]:
    """Return the terms of several training batches, each measured with the same weights.

    The run is set up as training sets it up (teachers, tokens of MasKD, checks) and ends before its first iteration.
    Nothing is written: tokens come from the checkpoint or the ``work_dir``, or are learned for this measurement.

    Args:
        config: A whole config; changed.
        checkpoint: Of a run of the config; sets student, distillers and iteration. ``None`` is the start of training.
        batches: Number of batches.
        iteration: For the schedules of the distillers. Defaults to the checkpoint's.
        stages: Measure also at each child of the backbone.
    """
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
    """Measure the loss on some batches in place of training, then end the run.

    Args:
        batches: Number of batches.
        iteration: See :func:`diagnose`.
        stages: See :func:`diagnose`.
    """

    priority = 'LOWEST'

    def __init__(self, batches: int, iteration: int | None = None, stages: bool = False) -> None:
        self.batches, self.iteration, self.stages = batches, iteration, stages
        self.found: list[list[Term]] = []

    def before_train(self, runner: Runner) -> None:
        """Measure, then raise."""
        model: Any = unwrap(runner.model)
        if self.iteration is not None and isinstance(model, Distilled):
            model.distillation.state.iteration = self.iteration
        data = itertools.islice(runner.train_dataloader, self.batches)
        console = Console(stderr=True)
        streams = _unlabelled(runner)
        for number, batch in enumerate(track(data, 'batches', self.batches, console=console, transient=True)):
            for stream in streams:
                stream.draw(runner, model.distillation.state.iteration, ahead=number)
            self.found.append(measure_gradients(model, batch, _stages(model) if self.stages else None))
        for stream in streams:
            stream.after_train(runner)  # ends its workers
        raise _Measured


def _unlabelled(runner: Runner) -> list[UnlabelledStream]:
    """Return what draws the pictures without labels, of a run that distils."""
    if not isinstance(unwrap(runner.model), Distilled):
        return []
    parts = [part for hook in runner.hooks if isinstance(hook, DistillHook) for part in hook.parts]
    return [part for part in parts if isinstance(part, UnlabelledStream)]


def _stages(model: nn.Module) -> Places:
    backbone = getattr(model, 'backbone', nn.Module())
    found = {f'backbone.{n}': [p for p in m.parameters() if p.requires_grad] for n, m in backbone.named_children()}
    return {name: parameters for name, parameters in found.items() if parameters}


def table_of(batches: Sequence[Sequence[Term]], taps: bool = False) -> Table:
    """Return a table of means over batches, with a row for each term and place.

    Args:
        batches: What :func:`diagnose` returns.
        taps: Show the tapped maps too, not the backbone alone.
    """
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
                cosine = '' if term.name == TASK else _cosine(batches, term.name, place)
                table.add_row(*head, place, f'{pull.norm:.3g}', f'{pull.share:.1%}', cosine)
                head = ['', '', '']
        table.add_section()
    return table


def _cosine(batches: Sequence[Sequence[Term]], name: str, place: str) -> str:
    found = [term.pulls[place].cosine for terms in batches for term in terms if term.name == name]
    finite = [cosine for cosine in found if math.isfinite(cosine)]
    return f'{fmean(finite):+.3f} ± {pstdev(finite):.3f}' if finite else '-'


def _parser() -> argparse.ArgumentParser:
    parser = common_parser('Measure each term of the loss: value, gradient at the backbone, cosine with the task')
    parser.add_argument('--checkpoint', help='of a run of this config (iter_*.pth); default: the untrained student')
    parser.add_argument('--batches', type=int, default=8, help='training batches to average over (default: 8)')
    parser.add_argument('--iteration', type=int, help="iteration for the schedules (default: the checkpoint's)")
    parser.add_argument('--taps', action='store_true', help='show the gradients at the tapped maps too')
    parser.add_argument('--stages', action='store_true', help='show the gradients at each part of the backbone too')
    parser.add_argument('--json', type=Path, metavar='FILE', help='write all numbers of each batch to this file')
    return parser
