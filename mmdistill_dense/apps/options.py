"""The options of the commands, and what is looked at before anything slow is imported.

``train`` and ``test`` take the options of mmseg's and mmdet's scripts.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from mmdistill_dense.utils.validate import counted


def add_common(parser: argparse.ArgumentParser, description: str) -> None:
    """Add what all commands on a config take."""
    parser.description = description
    add_config(parser)
    parser.add_argument('--work-dir', help='folder for logs and checkpoints (default: work_dirs/<name of the config>)')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help='set by launchers')
    processes = parser.add_mutually_exclusive_group()
    launchers = ['none', 'pytorch', 'slurm', 'mpi']
    processes.add_argument('--launcher', choices=launchers, help='what started the processes (default: none)')
    text = 'start N processes on this machine, one for each GPU (torchrun)'
    processes.add_argument('--processes', dest='to_start', type=counted, metavar='N', help=text)


def add_config(parser: argparse.ArgumentParser, text: str = 'config file, or METHOD:PAIR[:VARIANT]') -> None:
    parser.add_argument('config', help=text)
    replaced = 'settings that replace those of the config'
    parser.add_argument('--cfg-options', nargs='+', action=OptionsAction, metavar='KEY=VALUE', help=replaced)


# what starts the processes of a launcher, a variable that it sets and mmengine reads, and one for their number; mpirun
# and torchrun may run inside of srun
_STARTERS = {
    'pytorch': ('torchrun', 'RANK', 'WORLD_SIZE'),
    'mpi': ('mpirun', 'OMPI_COMM_WORLD_LOCAL_RANK', 'OMPI_COMM_WORLD_SIZE'),
    'slurm': ('srun', 'SLURM_PROCID', 'SLURM_STEP_NUM_TASKS'),
}


def start_processes(args: argparse.Namespace, words: Sequence[str]) -> None:
    """Become torchrun where ``--processes`` asks for it; in a process that torchrun has started, say so.

    Raises a ``ValueError`` for ``--launcher`` in a process that the launcher did not start, and for one of several
    processes without it: each would work alone in the same folder.
    """
    if 'to_start' not in args:
        return
    if args.to_start is not None and 'TORCHELASTIC_RUN_ID' in os.environ:
        args.launcher = 'pytorch'
    elif args.to_start is not None:
        check_files(args)
        torchrun = ['-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', str(args.to_start)]
        os.execv(sys.executable, [sys.executable, *torchrun, '-m', 'mmdistill_dense', *words])
    else:
        for launcher, (starter, variable, number) in _STARTERS.items() if args.launcher is None else ():
            if variable in os.environ and os.environ.get(number, '1') != '1':
                together = f'give --launcher {launcher}, so that they work together'
                apart = 'or --launcher none if each works alone, as in an interactive shell'
                raise ValueError(f'{starter} started {os.environ[number]} processes: {together}, {apart}.')
        args.launcher = args.launcher or 'none'
        starter, variable, _ = _STARTERS.get(args.launcher, ('', '', ''))
        if starter and variable not in os.environ:
            problem = f'this process was not started by {starter}, which sets {variable}'
            remedy = f'Start this command with {starter}, or give --processes N in place of --launcher'
            raise ValueError(f'--launcher {args.launcher}: {problem}. {remedy}.')


def run_later(target: str) -> Callable[[argparse.Namespace], int | None]:
    """Return a function that looks for the given files first, and then imports and calls ``module:function``."""

    def run(args: argparse.Namespace) -> int | None:
        check_files(args)
        return resolve_name(f'mmdistill_dense.apps.{target}')(args)

    return run


def check_files(args: argparse.Namespace) -> None:
    """Raise for a config or checkpoint that is no file, before anything slow is imported."""
    config = getattr(args, 'config', None)
    if config and config.endswith('.py') and '::' not in config and not Path(config).is_file():
        raise FileNotFoundError(f'{config}: no such file (working folder {Path.cwd()}).')
    for name in ('checkpoint', 'checkpoint_option'):
        checkpoint = getattr(args, name, None)
        if checkpoint and '://' not in checkpoint and not Path(checkpoint).is_file():
            raise FileNotFoundError(f'{checkpoint}: no such checkpoint (working folder {Path.cwd()}).')


class OptionsAction(argparse.Action):
    """Reads ``KEY=VALUE …`` as mmengine does, but keeps the blanks of a single value, which may be a path."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        from mmengine.config import DictAction

        options = dict(getattr(namespace, self.dest) or {})
        for pair in values:
            key, sign, value = pair.partition('=')
            if not sign:
                parser.error(f'--cfg-options {pair}: give KEY=VALUE; put quotes around a value with blanks.')
            text = value.strip().strip('\'"')
            is_sequence = ',' in text or (text[:1], text[-1:]) in (('(', ')'), ('[', ']'))
            options[key] = DictAction._parse_iterable(value) if is_sequence else DictAction._parse_int_float_bool(text)
        setattr(namespace, self.dest, options)


def fill_train(parser: argparse.ArgumentParser) -> None:
    add_common(parser, 'Train with a config')
    resumed = 'continue from this, or from the latest one in the work folder'
    parser.add_argument('--resume', nargs='?', const='auto', metavar='CHECKPOINT', help=resumed)
    parser.add_argument('--amp', action='store_true', help='train in mixed precision')
    parser.add_argument('--auto-scale-lr', action='store_true', help='scale the learning rate to the real batch size')
    parser.set_defaults(run=run_later('training:train'), speaks=True, raises=True)


def fill_test(parser: argparse.ArgumentParser) -> None:
    add_common(parser, 'Test a checkpoint with a config')
    parser.add_argument('checkpoint', nargs='?', help='the checkpoint to test')
    parser.add_argument('--checkpoint', dest='checkpoint_option', metavar='CHECKPOINT', help='the same, for mim')
    parser.add_argument('--out', help='write predictions to FILE.pkl, or for segmentation to a folder of label images')
    parser.add_argument('--show', action='store_true', help='show the pictures in a window')
    parser.add_argument('--show-dir', help='folder to save the pictures in')
    parser.add_argument('--wait-time', type=float, default=2, help='seconds per shown picture')
    parser.add_argument('--tta', action='store_true', help='test-time augmentation')
    parser.set_defaults(run=run_later('training:test'), speaks=True, raises=True)


def fill_tokens(parser: argparse.ArgumentParser) -> None:
    text = 'Learn the tokens of a config on its teacher (MasKD, FreeKD), write them where its training finds them'
    add_common(parser, text)
    parser.add_argument('--out', metavar='FILE', help='also write the tokens here, for tokens= of other configs')
    parser.add_argument('--draw', type=Path, metavar='DIR', help="draw each token's mask over validation pictures")
    parser.add_argument('--pictures', type=counted, default=4, metavar='N', help='how many (default: %(default)s)')
    parser.set_defaults(run=run_later('training:learn_tokens'), raises=True)


def fill_report(parser: argparse.ArgumentParser) -> None:
    parser.description = 'One HTML page about finished runs: the answer, scores, predictions, curves, settings.'
    parser.add_argument('folders', nargs='+', metavar='WORK_DIR', help="work dirs, a suite's runs/<name>, or suites")
    parser.add_argument('--control', help="work dir of the student alone (default: the suite's, or without distillers)")
    parser.add_argument('--out', type=Path, default=Path('report.html'), help='the page (default: %(default)s)')
    parser.add_argument('--pictures', type=int, default=6, help='test pictures; 0 runs no network (default: 6)')
    parser.add_argument('--metric', help='score to compare, as it is logged (default: of the suite, mIoU or box AP)')
    parser.set_defaults(run=run_later('report.page:report'))


EXPORT = """Export a distilled student: as weights with the plain config that loads them, or as a graph.

The ending of OUT selects the format: .pth and .safetensors are weights; .onnx and .pt2 (torch.export) are graphs that
run without the mm* stack. --whole puts resize, normalisation and what makes the answer into the .onnx graph: it takes a
picture as it is read, and gives a label map, or boxes, scores, labels and masks. --evaluate compares the scores of the
network and of its graph. --backbone-only writes the weights of the backbone, where ordinary configs start.
"""


def fill_export(parser: argparse.ArgumentParser) -> None:
    parser.description = EXPORT
    add_config(parser, 'config the student was trained with: a file, or METHOD:PAIR[:VARIANT]')
    parser.add_argument('checkpoint', help='checkpoint of that run')
    parser.add_argument('out', help='file to write; weights get a config (.py) beside them')
    parser.add_argument('--size', nargs=2, type=counted, metavar=('H', 'W'), help='of the picture a graph is made with')
    parser.add_argument('--whole', action='store_true', help='a graph from pictures to labels, or to boxes and masks')
    weights = "the backbone's weights, as its init_cfg takes them"
    parser.add_argument('--backbone-only', action='store_true', help=weights)
    names = 'of a VisionTransformer, with --backbone-only (default: original)'
    parser.add_argument('--names', choices=('original', 'timm'), help=names)
    parser.add_argument('--evaluate', action='store_true', help='print scores of network and graph on validation data')
    parser.set_defaults(run=run_later('export.write_student:export_command'))


def fill_check(parser: argparse.ArgumentParser) -> None:
    parser.description = 'Check a config before training: build, load, run one step, compare'
    parser.epilog = 'Exit code: 0 when training would work, 1 for warnings with --strict, 2 for an error.'
    add_config(parser)
    parser.add_argument('--no-weights', action='store_true', help='random weights: only shapes and options are checked')
    parser.add_argument('--device', help='default: cuda where there is one, else cpu')
    parser.add_argument('--batch', type=counted, help="pictures of the step; default: the config's for one process")
    parser.add_argument('--size', type=counted, nargs=2, metavar=('H', 'W'), help='generate pictures; no data are read')
    parser.add_argument('--val', type=int, default=4, metavar='N', help='test the teacher on N pictures (%(default)s)')
    parser.add_argument('--processes', type=counted, default=1, help='processes that will train together (%(default)s)')
    parser.add_argument('--strict', action='store_true', help='exit code 1 if there are warnings')
    parser.add_argument('--json', metavar='FILE', help='write the report to this file too')
    parser.set_defaults(run=run_later('check.run:check_command'))


def fill_taps(parser: argparse.ArgumentParser) -> None:
    parser.description = 'List the modules that can be tapped, with their output shapes'
    add_config(parser)
    parser.add_argument('--auto', action='store_true', help="only the taps of student_tap='auto'")
    side = parser.add_mutually_exclusive_group()
    side.add_argument('--student', action='store_true', help='the student alone')
    side.add_argument('--teacher', action='store_true', help='the teachers alone')
    parser.add_argument('--depth', type=counted, default=2, help='levels of the tree (%(default)s)')
    parser.add_argument('--below', default='', metavar='PATH', help='this module and what is in it, e.g. backbone')
    parser.add_argument('--size', type=counted, nargs=2, metavar=('H', 'W'), help='of the picture; default: as trained')
    parser.set_defaults(run=run_later('inspect.module_tree:show_taps'))


def fill_suite(parser: argparse.ArgumentParser) -> None:
    parser.description = 'One fair table of distillation methods'
    commands = parser.add_subparsers(required=True, metavar='COMMAND')

    def command(name: str, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(run=run_later(f'suite.actions:suite_{name}'), speaks=True)
        many = '?' if name == 'list' else None
        added.add_argument('definition', type=Path, nargs=many, help='.yaml, .py or .json, see docs/suite.md')
        return added

    run = command('run', 'train and test all unfinished runs')
    run.add_argument('--jobs', type=counted, help='number of runs side by side (default: of the definition)')
    threads = 'threads of each run (default: of the definition, or an equal part of the cores)'
    run.add_argument('--threads', type=counted, help=threads)
    run.add_argument('--only', nargs='+', default=[], metavar='NAME', help='rows, with the runs that they need')
    run.add_argument('--seeds', nargs='+', type=int, default=[], help='only these seeds')
    command('list', 'show the methods that fit, and the runs with their state; without a definition: all methods')
    write_table = command('table', 'write the table of the finished runs')
    write_table.add_argument('--out', type=Path, metavar='DIR', help='folder for the files (default: of the suite)')
    job = command('job', 'do one run; `run` calls this')
    job.add_argument('name', help='a row of the table')
    job.add_argument('--seed', type=int, help='its seed; a teacher has only one')
    job.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none', help='as for train')
    job.add_argument('--local_rank', '--local-rank', type=int, default=0, help='set by launchers')
    job.add_argument('--attended', action='store_true', help='end when standard input closes')
