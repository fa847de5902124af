"""The options of ``new``, ``run`` and ``predict``; what can be told before anything slow is imported is told first."""

import argparse
import re
import shlex
from contextlib import nullcontext
from pathlib import Path

from mmdistill_dense.apps.options import run_later
from mmdistill_dense.apps.project import DEFAULTS, FOUNDATION_DEFAULT, MASKS_DEFAULT, SUITE, UNLABELLED_DETECTOR
from mmdistill_dense.utils.files import expand_user, owned
from mmdistill_dense.utils.literals import check_place
from mmdistill_dense.utils.process import heartbeat
from mmdistill_dense.utils.validate import close_or_all, counted, fraction, some
from mmdistill_dense.utils.version import removed


def check_arguments(args: argparse.Namespace) -> Path:
    """Check the data's place, patterns, the names of the methods and the folder to write; return this folder.

    Without ``--out`` it is ``distil_`` and the name of the data folder.
    """
    from mmdistill_dense.apps.recipes.compose import methods

    if not expand_user(args.data).exists():
        raise FileNotFoundError(f'--data {args.data}: no such folder (looked in {Path.cwd()}).')
    if bool(args.images) != bool(args.labels):
        missing = '--labels' if args.images else '--images'
        raise ValueError(f'{missing}: missing. --images and --labels go together, as docs/your_labels.md shows.')
    method_names = methods()
    for name in args.method:
        if name not in method_names:
            raise KeyError(f'--method {name}: {removed(name) or f"unknown. {close_or_all(name, method_names)}"}')
    name = re.sub('[^a-z0-9]+', '_', Path(args.data).resolve().stem.lower()).strip('_')
    folder = args.out or Path(f'distil_{name}')
    check_place(f'--out {folder}', str(folder.absolute()))
    names = sorted(path.name for path in folder.iterdir() if path.name[0] != '.') if folder.is_dir() else []
    if names and SUITE not in names and 'data.py' not in names:  # the latter is written first
        problem = f'it holds other files ({some(names, 3)}) and no project ({SUITE})'
        raise FileExistsError(f'--out {folder}: {problem}. Give a folder that is new or empty.')
    return folder


_OTHER_NAMES = {  # of other programs, for options of `new`
    '--iters': ('--epochs', '--max-iters', '--steps'),
    '--size': ('--imgsz',),
    '--teacher-checkpoint': ('--checkpoint', '--weights'),
    '--unlabelled': ('--unlabeled',),
}
NEW = """Write the configs that distil a student from a teacher on your data, into one folder.

  mmdistill new --data leaves --student mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py
      --teacher mmseg::pspnet/pspnet_r50-d8_4xb2-80k_cityscapes-512x1024.py

Then `mmdistill run FOLDER` trains, compares and exports. docs/one_command.md explains both.
"""
RUN = """Do all that is left of a folder that `new` wrote: check, train the teacher, the student alone and the distilled
ones, write the report, export. What is done is not done again; an interrupted training goes on."""


def fill_new(parser: argparse.ArgumentParser) -> None:
    parser.description, parser.formatter_class = NEW, argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    default = f'{DEFAULTS["seg"]}; {DEFAULTS["det"]} for detectors, {MASKS_DEFAULT} for two Mask R-CNNs, '
    default += f'{UNLABELLED_DETECTOR} with --unlabelled; {FOUNDATION_DEFAULT} for MODEL:FILE'
    add('--student', required=True, metavar='CONFIG', help='mmseg::…, mmdet::…, or your own config')
    add('--teacher', required=True, metavar='CONFIG', help='the same, or MODEL:FILE (foundation model)')
    add('--data', required=True, metavar='DIR', help='pictures and labels, see docs/your_labels.md')
    add('--images', metavar='PATTERN', help="which files are pictures, as 'train/*_sat.jpg' (quoted)")
    labels = "their label images, as 'train/*_mask.png': each * stands for what that of --images matched"
    add('--labels', metavar='PATTERN', help=labels)
    add('--classes', nargs='+', default=[], metavar='NAME', help='of label values 0, 1, …; - ignores')
    add('--method', nargs='+', default=[], metavar='NAME', help=f'default: {default}')
    add('--teacher-checkpoint', metavar='FILE', help='of a trained teacher: it is not trained here')
    mapping_help = 'that teacher has other classes: auto pairs equal names; or car=car,truck forklift='
    add('--teacher-classes', nargs='+', default=[], metavar='MINE=THEIRS', help=mapping_help)
    trained = 'train the teacher on your data, also if its published weights know all your classes'
    add('--train-teacher', action='store_true', help=trained)
    add('--unlabelled', metavar='DIR', help='folder of pictures without labels, on which to teach too')
    add('--exif', choices=('apply', 'ignore'), help='labels fit photographs as turned, or as stored')
    add('--split', metavar='DIR|SHARE', help='folder with train.txt, val.txt, or the share of val')
    uncovered = 'pixels that no outline covers (default: a class of their own)'
    add('--background', choices=('class', 'ignore'), help=uncovered)
    add('--out', type=Path, metavar='DIR', help='folder to write (default: distil_<name of the data>)')
    add('--size', nargs=2, type=counted, metavar=('H', 'W'), help='bring pictures to this size')
    add('--batch', type=counted, help='pictures of a step (default: for this machine)')
    add('--iters', type=counted, help='steps of each training, as 20 (default: 100 passes, at least 2000)')
    add('--random-weights', action='store_true', help='fetch no weights; networks start at random')
    add('--dry', action='store_true', help='print what would be written')
    renamed = {name: f'it is {option} here' for option, names in _OTHER_NAMES.items() for name in names}
    parser.set_defaults(run=_new, other_names=renamed)


def _new(args: argparse.Namespace) -> int:
    from mmdistill_dense.utils.process import quiet

    print('new      starting', flush=True)
    folder = check_arguments(args)
    with quiet():  # notes of mmseg and mmdet about optional parts
        from mmdistill_dense.apps.project import new
        from mmdistill_dense.apps.project.contact_sheet import write_sheet
        from mmdistill_dense.apps.project.training_plan import price_lines

    files, data = new.plan(args)
    if args.dry:
        for name, text in files.items():
            print(f'\n# ---- {folder / name}\n{text}', end='')
        return 0
    for line in new.write(files, folder, getattr(data, 'drawing', None)):
        print(f'labels   {line}')
    print(f'written  {folder}: {", ".join(files)}')
    for line in (*write_sheet(folder), *price_lines(folder)):
        print(line)
    print(f'next     mmdistill run {shlex.quote(str(folder))}')
    return 0


def fill_run(parser: argparse.ArgumentParser) -> None:
    parser.description = RUN
    parser.add_argument('folder', type=Path, help='written by `new`')
    also = 'rows to export beside the best one, as control, into student_NAME.pth'
    parser.add_argument('--export', nargs='+', default=[], metavar='NAME', help=also)
    news = argparse.ArgumentParser()
    fill_new(news)
    hints = dict.fromkeys(news._option_string_actions, '`new` takes this option, `run` does not')
    parser.set_defaults(run=_run, other_names=hints, speaks=True)


def _run(args: argparse.Namespace) -> int:
    print(f'run      {args.folder}', flush=True)
    project = (args.folder / SUITE).is_file()
    with owned(args.folder, 'this project') if project else nullcontext():  # before the heavy imports
        with heartbeat('run'):
            from mmdistill_dense.utils.process import quiet

            with quiet():
                from mmdistill_dense.apps.project.run_project import run_project

        return run_project(args.folder, args.export)


def fill_predict(parser: argparse.ArgumentParser) -> None:
    parser.description = 'Use a student: draw what it finds, and write label images, or COCO json of boxes and masks.'
    parser.add_argument('student', help='folder that `run` finished, exported weights (its .py beside it), or a config')
    parser.add_argument('pictures', nargs='+', help='pictures, or folders of them')
    parser.add_argument('--checkpoint', metavar='FILE', help='weights for a config: a checkpoint of its training')
    parser.add_argument('--method', metavar='NAME', help="not a project's best student, but this row's")
    parser.add_argument('--out', type=Path, default=Path('predictions'), help='folder to write (default: %(default)s)')
    parser.add_argument('--threshold', type=fraction, metavar='SCORE', help='least score of a box (default: 0.3)')
    parser.add_argument('--device', help='default: cuda where there is one, else cpu')
    parser.set_defaults(run=run_later('project.predict:predict_command'), speaks=True)
