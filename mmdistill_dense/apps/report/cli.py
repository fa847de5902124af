"""The options of ``report``."""

from __future__ import annotations

import argparse
import io
from contextlib import redirect_stdout
from pathlib import Path


def fill_report(parser: argparse.ArgumentParser) -> None:
    parser.description = 'One HTML page about finished runs: curves, scores, predictions, settings, costs.'
    parser.add_argument('folders', nargs='+', metavar='WORK_DIR', help="work dirs, a suite's runs/<name>, or suites")
    parser.add_argument(
        '--control', help="work dir of the student alone; default: the suite's, else runs without distillers"
    )
    parser.add_argument('--out', type=Path, default=Path('report.html'), help='the page (default: %(default)s)')
    parser.add_argument('--pictures', type=int, default=4, help='validation pictures; 0 runs no network (default: 4)')
    parser.add_argument(
        '--metric', help='the score to compare, as the runs log it (default: the one of a suite, mIoU or box AP)'
    )
    parser.set_defaults(run=_report)


def _report(args: argparse.Namespace) -> None:
    with redirect_stdout(io.StringIO()):  # notes of mmseg and mmdet about optional parts
        from mmdistill_dense.apps.report.page import make_report

        path, sections = make_report(args.folders, args.out, args.control, args.pictures, args.metric)
    for section in sections:
        for reason in section.reasons:
            print(f'left out, {section.title.lower()}: {reason}')
    print(f'{path} ({path.stat().st_size / 2**20:.1f} MB)')
