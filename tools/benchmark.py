"""Benchmarks: `losses` compares our losses with the released formulas, `step` takes a distilled training step apart."""

import argparse
import json
import platform
from dataclasses import asdict
from pathlib import Path

import torch
from mmengine.config import Config, DictAction
from mmengine.logging import MMLogger

from mmdistill_dense.analysis import benchmark_afdcd, benchmark_losses, benchmark_maskd, benchmark_pcd, benchmark_step

METHODS = {'afdcd': benchmark_afdcd, 'maskd': benchmark_maskd, 'pcd': benchmark_pcd}


def main() -> None:
    """Read the command line, measure, print Markdown."""
    args = _parse()
    torch.set_num_threads(args.threads)
    print(
        f'torch {torch.__version__}, {args.threads} thread(s), {platform.machine()}; process CPU time, median (range)\n'
    )
    result = _losses(args) if args.what == 'losses' else _step(args)
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + '\n')


def _losses(args: argparse.Namespace) -> object:
    method = METHODS[args.method]
    size = args.size or method.DEFAULT_SIZE
    if size not in method.SIZES:
        raise SystemExit(f'--size of {args.method} must be one of {", ".join(method.SIZES)}, got {size}')
    rows = [benchmark_losses.measure(case) for case in method.cases(size)]
    print(benchmark_losses.as_markdown(rows))
    print(f'\nSize {size}: {method.describe(size)}. {benchmark_losses.NOTE}')
    return [asdict(row) for row in rows]


def _step(args: argparse.Namespace) -> object:
    MMLogger.get_instance('benchmark', log_level='ERROR')  # else the teacher's initialisation fills the screen
    config = Config.fromfile(args.config)
    config.merge_from_dict(args.cfg_options or {})
    cost = benchmark_step.measure_step(config, args.batch, args.repeats, args.size and tuple(args.size))
    print(benchmark_step.as_markdown(cost))
    return {**asdict(cost), 'ratio': cost.ratio, 'whole_ratio': cost.whole_ratio}


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument('--threads', type=int, default=1)
    shared.add_argument('--json', type=Path, metavar='FILE', help='write the figures there too')
    commands = parser.add_subparsers(dest='what', required=True)
    losses = commands.add_parser('losses', parents=[shared], help='ours against the released formulas')
    losses.add_argument('--method', required=True, choices=sorted(METHODS))
    sizes = '; '.join(f'{name}: {", ".join(method.SIZES)}' for name, method in METHODS.items())
    losses.add_argument('--size', help=f"{sizes}. Default: the method's first")
    step = commands.add_parser('step', parents=[shared], help='the parts of a distilled training step')
    step.add_argument('--config', required=True)
    step.add_argument('--batch', type=int, help="images; default the config's")
    size = "of the images; default the config's crop, or largest training size"
    step.add_argument('--size', nargs=2, type=int, metavar=('HEIGHT', 'WIDTH'), help=size)
    step.add_argument('--repeats', type=int, default=5)
    step.add_argument('--cfg-options', nargs='+', action=DictAction, help='overrides: key=value')
    return parser.parse_args()


if __name__ == '__main__':
    main()
