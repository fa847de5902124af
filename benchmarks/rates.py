"""Which way to a learning rate costs a network least? Trains development networks alone, at many rates.

    python benchmarks/rates.py projects DIR                 # writes a project of each network, as `new` does
    python benchmarks/rates.py train DIR [--shard 0/2]      # a line of DIR/rates.jsonl a training; goes on after a stop
    python benchmarks/rates.py table DIR/rates.jsonl        # each way's distance to the best of all
    python benchmarks/rates.py pictures DIR                 # detectors with and without varied pictures, at 2 lengths

All trainings of a network have the same steps, batch, seed, warm-up (a twentieth) and cosine to 0; they differ in the
optimizer: SGD and AdamW at five rates each, Prodigy without a rate. A range test of 100 steps a network and optimizer,
in which the rate grows from 1e-6 to 1 (AdamW) or 10 (SGD), is recorded beside them.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for the sibling script

from benchmarks.defaults import write_part
from mmdistill_dense.__main__ import main as command
from mmdistill_dense.apps.project.config_files import variations
from mmdistill_dense.apps.project.recipe import schedule

DEFINITION = Path(__file__).parent / 'pairs/rates.yaml'
SGD = dict(type='SGD', momentum=0.9, weight_decay=5e-4)
ADAMW = dict(type='AdamW', weight_decay=0.05)
PRODIGY = dict(type='Prodigy', lr=1.0, weight_decay=0.05, safeguard_warmup=True, use_bias_correction=True)
RATES = dict(SGD=[0.005, 0.02, 0.06, 0.2, 0.6], AdamW=[2e-4, 6e-4, 2e-3, 6e-3, 2e-2])
RANGE_STEPS, RANGE_START, RANGE_ENDS = 100, 1e-6, dict(SGD=10.0, AdamW=1.0)
SMOOTHING = 0.9  # of the loss of a range test
PICTURES = (('gfl_nuclei67', 400), ('gfl_nuclei67', 1600), ('rtmdet_bccd51', 1200))  # 24, 96, 94 passes


def arms() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name and the optimizer of each training."""
    for kind, option in dict(AdamW=ADAMW, SGD=SGD).items():
        yield from ((f'{kind} {rate:g}', {**option, 'lr': rate}) for rate in RATES[kind])
    yield from (('Prodigy', PRODIGY), ('Prodigy d0=1e-4', {**PRODIGY, 'd0': 1e-4}))


def write_projects(out: Path) -> None:
    """Let ``new`` write a project of each network; the network is student and teacher."""
    for task in yaml.safe_load(DEFINITION.read_text(encoding='utf-8')).values():
        for name, network in task['networks'].items():
            data = Path(os.environ['MMDISTILL_DATA'], network['data'])
            for part, which in network['parts'].items():
                write_part(data, part, which, out / 'data' / name)
            words = ['--student', network['student'], '--teacher', network['student'], '--iters', task['iters']]
            words += ['--size', *network['size'], '--data', out / 'data' / name, '--out', out / name]
            words += ['--classes', *network['classes']] if 'classes' in network else []
            if command(['new', *map(str, words)]):
                raise ValueError(f'{DEFINITION}: {name}: `new` refuses it, see above')


def train(out: Path, shard: tuple[int, int]) -> None:
    """Train what is missing in ``rates.jsonl``; the shards take turns."""
    file = out / 'rates.jsonl'
    lines = file.read_text(encoding='utf-8').splitlines() if file.is_file() else []
    done = {(row['network'], row['arm']) for row in map(json.loads, lines)}
    names = [
        name for task in yaml.safe_load(DEFINITION.read_text(encoding='utf-8')).values() for name in task['networks']
    ]
    runs = [(name, arm, optimizer) for arm, optimizer in arms() for name in names]
    ranges = [(name, f'range {kind}', option) for kind, option in (('SGD', SGD), ('AdamW', ADAMW)) for name in names]
    for name, arm, optimizer in [*ranges, *runs][shard[0] :: shard[1]]:
        if (name, arm) in done:
            continue
        start = time.process_time()
        measured = (
            range_test(out / name, optimizer) if arm.startswith('range') else train_once(out / name, arm, optimizer)
        )
        row = dict(network=name, arm=arm, seconds=round(time.process_time() - start, 1), **measured)
        with file.open('a', encoding='utf-8') as stream:
            stream.write(f'{json.dumps(row)}\n')
        print(json.dumps({key: value for key, value in row.items() if key != 'losses'}), flush=True)


def pictures(out: Path) -> None:
    """Train detectors with resized and mirrored pictures, and with varied ones; a line of ``pictures.jsonl`` each."""
    for (name, steps), varied in product(PICTURES, (False, True)):
        score = train_once(out / name, f'{steps} varied {varied}', {**ADAMW, 'lr': 6e-3}, steps, varied)['score']
        with (out / 'pictures.jsonl').open('a', encoding='utf-8') as stream:
            stream.write(f'{json.dumps(dict(network=name, steps=steps, varied=varied, score=score))}\n')


def set_pictures(config: Any, varied: bool) -> None:
    """Let a detector's training see varied pictures, or resized and mirrored ones."""
    steps = config.train_dataloader.dataset.pipeline
    size = next(step.scale for step in config.test_pipeline if step.type == 'Resize')
    resize = dict(type='Resize', scale=size, keep_ratio=True)
    flip = dict(type='RandomFlip', prob=0.5)
    config.train_dataloader.dataset.pipeline = [
        *steps[:2], *(variations(resize, True) if varied else [resize]), flip, steps[-1]
    ]  # fmt: skip


def train_once(
    project: Path, arm: str, optimizer: Mapping[str, Any], steps: int | None = None, varied: bool | None = None
) -> dict[str, Any]:
    """Return the score on val after a training with this optimizer; default: length and pictures of the project."""
    config = _config(project, arm, optimizer)
    if varied is not None:
        set_pictures(config, varied)
    config.train_cfg.max_iters = steps or config.train_cfg.max_iters
    steps = config.train_cfg.max_iters
    config.param_scheduler = schedule(steps)
    config.train_cfg.val_interval = steps
    try:
        runner = _runner(config)
        runner.train()
    except RuntimeError as error:
        if 'not finite' not in str(error):
            raise
        return dict(score=0.0, diverged=True)
    scalars = runner.message_hub.log_scalars
    key = next(key for key in ('val/mIoU', 'val/coco/bbox_mAP') if key in scalars)
    score = float(scalars[key].current())
    return dict(score=score if key == 'val/mIoU' else 100 * score)


def range_test(project: Path, optimizer: Mapping[str, Any]) -> dict[str, Any]:
    """Return the losses of steps at growing rates, and the rate of each."""
    import torch
    from mmengine.hooks import Hook

    steps, end = RANGE_STEPS, RANGE_ENDS[optimizer['type']]
    rates = [RANGE_START * (end / RANGE_START) ** (step / (steps - 1)) for step in range(steps)]
    losses: list[float] = []

    class Grow(Hook):
        """Sets the rate of each step, and stops where the loss explodes."""

        def before_train_iter(self, runner: Any, *_: Any, **__: Any) -> None:
            for group in runner.optim_wrapper.param_groups:
                group['lr'] = rates[runner.iter]

        def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
            losses.append(float(outputs['loss']))
            if losses[-1] > 4 * losses[0]:
                raise StopIteration

    config = _config(project, 'range', {**optimizer, 'lr': RANGE_START})
    config.train_cfg.update(max_iters=steps, val_interval=10**6)
    config.param_scheduler = None
    config.default_hooks.param_scheduler = None
    config.default_hooks.pop('distill')
    config.update(val_cfg=None, val_dataloader=None, val_evaluator=None)
    runner = _runner(config)
    runner.register_hook(Grow())
    with suppress(StopIteration):
        runner.train()
    torch.set_grad_enabled(True)
    return dict(rates=[float(f'{rate:.3g}') for rate in rates[: len(losses)]], losses=[round(x, 4) for x in losses])


def _config(project: Path, arm: str, optimizer: Mapping[str, Any]) -> Any:
    from mmdistill_dense.apps.recipes.named import read_config

    config = read_config(str(project / 'control.py'))
    wrapper = config.optim_wrapper
    wrapper.optimizer = dict(optimizer)
    if optimizer['type'] == 'Prodigy':
        wrapper.pop('paramwise_cfg', None)  # it takes one rate
    config.randomness = dict(seed=3)
    config.train_dataloader.update(num_workers=0, persistent_workers=False)
    config.val_dataloader.update(num_workers=0, persistent_workers=False)
    config.default_hooks.checkpoint = dict(type='CheckpointHook', by_epoch=False, interval=10**6, save_last=False)
    config.work_dir = str(project / 'rates' / arm.replace(' ', '_'))
    config.log_level = 'ERROR'
    config.experiment_name = f'{project.name}_{arm.replace(" ", "_")}_{os.getpid()}'
    return config


def _runner(config: Any) -> Any:
    import torch
    from mmengine.registry import OPTIMIZERS
    from prodigyopt import Prodigy

    from mmdistill_dense.apps.commands.training import build_runner

    OPTIMIZERS.register_module(module=Prodigy, force=True)
    torch.set_num_threads(1)
    return build_runner(config)


def table(file: Path) -> str:
    """Return a row a network with each arm's score, and the mean distance to the best of all."""
    rows = [json.loads(line) for line in file.read_text(encoding='utf-8').splitlines()]
    scores: dict[str, dict[str, float]] = {}
    for row in rows:
        if 'score' in row:
            scores.setdefault(row['network'], {})[row['arm']] = row['score']
    names = [arm for arm, _ in arms() if any(arm in each for each in scores.values())]
    lines = [f'| network | {" | ".join(names)} |', f'|---|{"--:|" * len(names)}']
    for network, each in scores.items():
        cells = (f'{each[arm]:.1f}' if arm in each else '' for arm in names)
        lines.append(f'| {network} | {" | ".join(cells)} |')
    regrets = {arm: [each[arm] - max(each.values()) for each in scores.values() if arm in each] for arm in names}
    cells = (f'{fmean(gaps):.1f} ({min(gaps):.1f})' if gaps else '' for gaps in regrets.values())
    return '\n'.join([*lines, f'| mean (worst) distance to the best | {" | ".join(cells)} |'])


def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line, and print."""
    parser = argparse.ArgumentParser(prog='rates.py', description=str(__doc__).split('\n')[0])
    parser.add_argument('mode', choices=('projects', 'train', 'table', 'pictures'))
    parser.add_argument('place', type=Path)
    parser.add_argument('--shard', default='0/1', help='which of how many processes this is, as 0/2')
    args = parser.parse_args(argv)
    index, count = map(int, args.shard.split('/'))
    if args.mode == 'projects':
        write_projects(args.place.resolve())
    elif args.mode == 'train':
        train(args.place.resolve(), (index, count))
    elif args.mode == 'pictures':
        pictures(args.place.resolve())
    else:
        print(table(args.place))


if __name__ == '__main__':
    main()
