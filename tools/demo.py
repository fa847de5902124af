"""Train a small teacher, a student alone and the student with the teacher on generated pictures; compare them.

python tools/demo.py [seg|det] [--seeds 0,1,2] [--out work_dirs/demo] [--short]
"""

import argparse
import contextlib
import io
import os
import sys
import time
from pathlib import Path

from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # tools/ is no installed package


def main() -> None:
    """Run the demonstration."""
    parser = argparse.ArgumentParser(description='Teacher, student alone, student distilled, on generated pictures')
    parser.add_argument('task', nargs='?', default='seg', choices=['seg', 'det'], help='segmentation or detection')
    parser.add_argument('--seeds', default=os.environ.get('SEEDS', '0'), help='seeds of the students, with commas')
    parser.add_argument('--out', type=Path, help='folder for logs, checkpoints, pictures')
    parser.add_argument('--short', action='store_true', help='a few iterations only: does everything run?')
    args = parser.parse_args()
    seeds = [int(seed) for seed in args.seeds.split(',')]
    out = args.out or Path('work_dirs', 'demo' if args.task == 'seg' else f'demo_{args.task}')
    os.environ.setdefault('OMP_NUM_THREADS', '1')  # networks this small run slower on two threads
    console, start = Console(file=sys.stdout), time.monotonic()
    console.print(f'loading; details go to {out / "log.txt"}')
    with contextlib.redirect_stdout(io.StringIO()):  # notes of mmseg and mmdet about optional parts
        from tools.demo.pictures import draw_picture, make_table
        from tools.demo.training import TASKS, logged, run_demo

    task = TASKS[args.task]
    results = run_demo(task, seeds, out, console, args.short)
    with logged(out / 'log.txt'):
        draw_picture(task, results, out / 'demo.png')
    console.print(make_table(task, results))
    console.print(f'picture: {out / "demo.png"}')
    console.print(f'{time.monotonic() - start:.0f} s in all')


if __name__ == '__main__':
    main()
