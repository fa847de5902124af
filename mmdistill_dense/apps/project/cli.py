"""``python -m mmdistill_dense new`` and ``run``; what can be told before anything slow is imported is told first."""

from __future__ import annotations

import argparse
import difflib
import json
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

from mmdistill_dense.apps.project import SUITE
from mmdistill_dense.utils.directories import FolderInUse, owned
from mmdistill_dense.utils.literals import check_place
from mmdistill_dense.utils.messages import close_or_all, some, text_of
from mmdistill_dense.utils.quiet import alive
from mmdistill_dense.utils.validate import counted

_NAME = re.compile(r'[^A-Za-z0-9]+')
_FIRST = 'data.py'  # of the files of a project, the one that is written first


def check_first(args: argparse.Namespace) -> Path:
    """Check the data's place, the names of the methods and the folder to write, and return this folder."""
    if not Path(args.data).expanduser().exists():
        raise FileNotFoundError(f'--data {args.data}: no such folder (looked in {Path.cwd()}).')
    check_methods(args.method)
    folder = args.out or default_folder(args.data)
    check_folder(folder)
    return folder


def check_methods(names: Sequence[str]) -> None:
    """Raise for an unknown name of ``--method``."""
    from mmdistill_dense.apps.recipes.compose import methods

    known = methods()
    for name in names:
        if name not in known:
            raise KeyError(f'--method {name}: unknown. {close_or_all(name, known)}')


def default_folder(data: str) -> Path:
    """Return the folder that is written without ``--out``: ``distil_`` and the name of the data folder."""
    return Path(f'distil_{_NAME.sub("_", Path(data).resolve().stem).strip("_").lower()}')


def check_folder(folder: Path) -> None:
    """Raise for a folder whose path no config can hold, or that holds files of the user's."""
    check_place(f'--out {folder}', str(folder.absolute()))
    if not folder.is_dir():
        return
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith('.'))
    if names and SUITE not in names and _FIRST not in names:
        raise FileExistsError(
            f'--out {folder}: it holds other files ({some(names, 3)}) and no project ({SUITE}). Give a folder that is '
            'new or empty.'
        )


OTHER_NAMES = {  # of other programs, for options of `new`
    '--epochs': '--iters',
    '--max-iters': '--iters',
    '--steps': '--iters',
    '--imgsz': '--size',
    '--checkpoint': '--teacher-checkpoint',
    '--weights': '--teacher-checkpoint',
    '--unlabeled': '--unlabelled',
}
NEW = """Write the configs that distil a student from a teacher on your data, into one folder.

  python -m mmdistill_dense new --data leaves --student mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py
      --teacher mmseg::pspnet/pspnet_r50-d8_4xb2-80k_cityscapes-512x1024.py

Then `python -m mmdistill_dense run FOLDER` trains, compares and exports. docs/one_command.md explains both.
"""
RUN = """Do all that is left of a folder that `new` wrote: check, train the teacher, the student alone and the distilled
ones, write the report, export. What is done is not done again; an interrupted training goes on."""


def new_parser() -> argparse.ArgumentParser:
    """Return the parser of ``new``."""
    parser = argparse.ArgumentParser(description=NEW, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--student', required=True, metavar='CONFIG', help='mmseg::…, mmdet::…, or a config of your own'
    )
    parser.add_argument(
        '--teacher', required=True, metavar='CONFIG', help='the same, or MODEL:FILE for a foundation model'
    )
    parser.add_argument(
        '--data', required=True, metavar='DIR', help='pictures with label images, or with COCO json files'
    )
    parser.add_argument(
        '--classes', nargs='+', default=[], metavar='NAME', help='of the label values 0, 1, …; - ignores one'
    )
    parser.add_argument(
        '--method',
        nargs='+',
        default=[],
        metavar='NAME',
        help='default: pcd; pkd for detectors; featurematch for MODEL:FILE',
    )
    parser.add_argument(
        '--teacher-checkpoint', metavar='FILE', help='of a trained teacher, which is then not trained here'
    )
    parser.add_argument('--unlabelled', metavar='DIR', help='folder of pictures without labels, on which to teach too')
    parser.add_argument(
        '--exif', choices=('apply', 'ignore'), help='labels fit photographs as EXIF turns them, or as they are stored'
    )
    parser.add_argument('--out', type=Path, metavar='DIR', help='folder to write (default: distil_<name of the data>)')
    parser.add_argument('--size', nargs=2, type=counted, metavar=('H', 'W'), help='bring pictures to this size')
    parser.add_argument('--batch', type=counted, help='pictures of a step (default: for this machine)')
    parser.add_argument(
        '--iters', type=counted, help="steps of each training, e.g. 20 for a trial (default: the configs', scaled)"
    )
    parser.add_argument(
        '--random-weights', action='store_true', help='fetch no weights; both networks start from random ones'
    )
    parser.add_argument('--dry', action='store_true', help='print what would be written')
    return parser


def parsed(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None, known: Mapping[str, str | None]
) -> argparse.Namespace:
    """Read a command line. An unknown option ends the program; the message gives a close name, or its name here.

    ``known`` are names that users may mean: with the option here, or None for an option of ``new``.
    """
    _, rest = parser.parse_known_args(argv)
    for option in [word for word in rest if word.startswith('-')]:
        if option in known:
            here = known[option]
            parser.error(f'{option}: ' + (f'it is {here} here' if here else '`new` takes this option, `run` does not'))
        close = difflib.get_close_matches(option, parser._option_string_actions, n=2)
        parser.error(f'{option}: no such option. ' + (f'Close: {", ".join(close)}' if close else '--help shows all'))
    if rest:
        parser.error(f'{" ".join(rest)}: belongs to no option. A name with spaces stands in quotes')
    return parser.parse_args(argv)


def main_new(argv: Sequence[str] | None = None) -> int:
    """Write a project; return the exit code."""
    args = parsed(new_parser(), argv, OTHER_NAMES)
    print('new      starting', flush=True)
    with alive('new'):
        try:
            return _new(args)
        except (OSError, KeyError, ValueError) as error:
            print(f'ERROR    {text_of(error)}', file=sys.stderr)
            return 2


def _new(args: argparse.Namespace) -> int:
    from mmdistill_dense.utils.quiet import quiet

    folder = check_first(args)
    with quiet():  # notes of mmseg and mmdet about optional parts
        from mmdistill_dense.apps.project import new
        from mmdistill_dense.apps.project.new import write

    files = new.plan(args, lambda line: print(line, flush=True))
    if args.dry:
        for name, text in files.items():
            print(f'\n# ---- {folder / name}\n{text}', end='')
        return 0
    write(files, folder)
    told = ', '.join(f'{name} ({_content(name, text)})' for name, text in files.items())
    print(f'written  {folder}: {told}')
    print(f'next     python -m mmdistill_dense run {folder}')
    return 0


def _content(name: str, text: str) -> str:
    """Return how much a written file holds."""
    if name.endswith('.json'):
        listed = json.loads(text)
        return f'{_plural(len(listed["images"]), "picture")}, {_plural(len(listed["annotations"]), "box", "es")}'
    return _plural(text.count('\n'), 'picture' if name.endswith('.txt') else 'line')


def _plural(count: int, name: str, ending: str = 's') -> str:
    return f'{count} {name}{"" if count == 1 else ending}'


def main_run(argv: Sequence[str] | None = None) -> int:
    """Do what is left of a project; return the exit code."""
    parser = argparse.ArgumentParser(description=RUN)
    parser.add_argument('folder', type=Path, help='written by `new`')
    parser.add_argument(
        '--rerun-changed', action='store_true', help='repeat trainings whose configs were changed since'
    )
    args = parsed(parser, argv, dict.fromkeys(new_parser()._option_string_actions))
    print(f'run      {args.folder}', flush=True)
    try:
        project = (args.folder / 'suite.yaml').is_file()
        with owned(args.folder, 'this project') if project else nullcontext():  # before the heavy imports
            return _run(args)
    except (OSError, KeyError, ValueError, FolderInUse) as error:
        print(f'ERROR    {text_of(error)}', file=sys.stderr)
        return 2


def _run(args: argparse.Namespace) -> int:
    with alive('run'):
        from mmdistill_dense.utils.quiet import quiet

        with quiet():
            from mmdistill_dense.apps.project.steps import run_project

    return run_project(args.folder, args.rerun_changed)
