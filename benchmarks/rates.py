"""How far is the recipe of `new` from the best rate and optimizer? Trains development networks alone.

    python benchmarks/rates.py projects DIR                 # writes a project of each network, as `new` does
    python benchmarks/rates.py train DIR                    # a line of DIR/rates.jsonl a training; goes on after a stop
    python benchmarks/rates.py table DIR/rates.jsonl        # the distance of each way to the best of all

All trainings of a network have the same steps, batch, seed, warm-up (a twentieth) and cosine to 0. They differ in the
optimizer: that of the recipe, and SGD and AdamW at five rates each. The small copies of the data are those of
`evidence.py data`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for the sibling script

from benchmarks.evidence import METRICS, write_part
from mmdistill_dense.__main__ import main as command

DEFINITION = Path(__file__).parent / 'pairs/rates.yaml'
SGD = dict(type='SGD', momentum=0.9, weight_decay=5e-4)
ADAMW = dict(type='AdamW', weight_decay=0.05)
RATES = dict(SGD=[0.005, 0.02, 0.06, 0.2, 0.6], AdamW=[2e-4, 6e-4, 2e-3, 6e-3, 2e-2])


def arms() -> Iterator[tuple[str, dict[str, Any] | None]]:
    """Yield the name and the optimizer of each training; ``None``: that of the recipe."""
    yield 'recipe', None
    for place in (2, 3, 1, 0, 4):  # the likely ones first
        for kind, option in dict(AdamW=ADAMW, SGD=SGD).items():
            yield f'{kind} {RATES[kind][place]:g}', {**option, 'lr': RATES[kind][place]}


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


def train(out: Path) -> None:
    """Train what is missing in ``rates.jsonl``."""
    file = out / 'rates.jsonl'
    lines = file.read_text(encoding='utf-8').splitlines() if file.is_file() else []
    done = {(row['network'], row['arm']) for row in map(json.loads, lines)}
    tasks = yaml.safe_load(DEFINITION.read_text(encoding='utf-8')).values()
    for (arm, optimizer), name in product(arms(), [name for task in tasks for name in task['networks']]):
        if (name, arm) in done:
            continue
        start = time.process_time()
        measured = train_once(out / name, arm, optimizer)
        row = dict(network=name, arm=arm, seconds=round(time.process_time() - start, 1), **measured)
        with file.open('a', encoding='utf-8') as stream:
            stream.write(f'{json.dumps(row)}\n')
        print(json.dumps(row), flush=True)


def train_once(project: Path, arm: str, optimizer: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the score on val after a training with this optimizer."""
    config = alone_config(project, arm, optimizer)
    config.train_cfg.val_interval = config.train_cfg.max_iters
    try:
        runner = one_thread_runner(config)
        runner.train()
    except RuntimeError as error:
        if 'not finite' not in str(error):
            raise
        return dict(score=0.0, diverged=True)
    scalars = runner.message_hub.log_scalars
    return dict(score=score_of({name.removeprefix('val/'): value.current() for name, value in scalars.items()}))


def score_of(metrics: Mapping[str, Any]) -> float:
    """Return the score of an evaluation in percent; 0 without any, which mmdet gives where no box is found."""
    return next((factor * float(metrics[key]) for key, factor in METRICS.items() if key in metrics), 0.0)


def alone_config(project: Path, name: str, optimizer: Mapping[str, Any] | None = None, seed: int = 3) -> Any:
    """Return the config of a project's student alone, read and trained in this process, which keeps no checkpoint."""
    from mmdistill_dense.apps.recipes.named import read_config

    config = read_config(str(project / 'control.py'))
    if optimizer:
        config.optim_wrapper.optimizer = dict(optimizer)
    config.randomness = dict(seed=seed)
    for part in ('train', 'val', 'test'):
        config[f'{part}_dataloader'].update(num_workers=0, persistent_workers=False)
    config.default_hooks.checkpoint = dict(type='CheckpointHook', by_epoch=False, interval=10**6, save_last=False)
    config.work_dir = str(project / 'rates' / name.replace(' ', '_'))
    config.log_level = 'ERROR'
    config.experiment_name = f'{project.name}_{name.replace(" ", "_")}_{os.getpid()}'
    return config


def one_thread_runner(config: Any) -> Any:
    """Return the runner of a config, on one thread."""
    import torch

    from mmdistill_dense.apps.training import build_runner

    torch.set_num_threads(1)
    return build_runner(config)


def table(file: Path) -> str:
    """Return a row a network with each arm's score, and the mean distance to the best of all."""
    rows = [json.loads(line) for line in file.read_text(encoding='utf-8').splitlines()]
    scores: dict[str, dict[str, float]] = {}
    for row in rows:
        if 'score' in row:
            scores.setdefault(row['network'], {})[row['arm']] = row['score']
    names = list(dict.fromkeys(row['arm'] for row in rows if 'score' in row))
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
    parser.add_argument('mode', choices=('projects', 'train', 'table'))
    parser.add_argument('place', type=Path)
    args = parser.parse_args(argv)
    if args.mode == 'projects':
        write_projects(args.place.resolve())
    elif args.mode == 'train':
        train(args.place.resolve())
    else:
        print(table(args.place))


if __name__ == '__main__':
    main()
