"""Train a small teacher, a student alone and the student with the teacher on generated pictures; compare them.

python tools/demo.py [--seeds 0,1,2] [--out work_dirs/demo] [--short]
"""

import argparse
import contextlib
import io
import os
import sys
import time
from pathlib import Path

from rich.console import Console


def main() -> None:
    """Run the demonstration."""
    parser = argparse.ArgumentParser(description='Teacher, student alone, student distilled, on generated pictures')
    parser.add_argument('--seeds', default=os.environ.get('SEEDS', '0'), help='seeds of the students, with commas')
    parser.add_argument(
        '--out', type=Path, default=Path('work_dirs/demo'), help='folder for logs, checkpoints, picture'
    )
    parser.add_argument('--short', action='store_true', help='a few iterations only: does everything run?')
    args = parser.parse_args()
    seeds = [int(seed) for seed in args.seeds.split(',')]
    os.environ.setdefault('OMP_NUM_THREADS', '1')  # networks this small run slower on two threads
    console, start = Console(file=sys.stdout), time.monotonic()
    console.print(f'loading; details go to {args.out / "log.txt"}')
    with contextlib.redirect_stdout(io.StringIO()):  # mmseg's notes about optional parts
        from mmdistill_dense.analysis.demo import run_demo
        from mmdistill_dense.analysis.demo_report import draw_picture, make_table

    results = run_demo(seeds, args.out, console, args.short)
    draw_picture(results, args.out / 'demo.png')
    console.print(make_table(results))
    console.print(f'picture: {args.out / "demo.png"}; {time.monotonic() - start:.0f} s in all')


if __name__ == '__main__':
    main()
