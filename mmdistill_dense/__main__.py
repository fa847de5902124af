"""``python -m mmdistill_dense COMMAND …``: every command of the package, in a checkout or an installed wheel."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path

from mmdistill_dense.utils.messages import close_or_all
from mmdistill_dense.utils.quiet import alive
from mmdistill_dense.utils.threads import wait_briefly

COMMANDS = {
    'new': (
        'mmdistill_dense.apps.project.cli:main_new',
        'write the configs for two networks and your data into one folder',
    ),
    'run': ('mmdistill_dense.apps.project.cli:main_run', 'do all that is left of such a folder'),
    'check': ('mmdistill_dense.apps.check.cli:main_check', 'check a config before training'),
    'train': ('mmdistill_dense.apps.commands.cli:main_train', 'train with a config'),
    'test': ('mmdistill_dense.apps.commands.cli:main_test', 'test a checkpoint'),
    'report': ('mmdistill_dense.apps.report.cli:main', 'write a page about finished runs'),
    'export': ('mmdistill_dense.apps.project.steps:main_export', 'export a student as weights or as a graph'),
    'suite': ('mmdistill_dense.apps.suite.cli:main', 'compare methods over several seeds'),
    'list-taps': ('mmdistill_dense.apps.check.cli:main_list_taps', 'list the modules that can be compared'),
    'diagnose': ('mmdistill_dense.apps.inspect.gradients:main_diagnose', 'measure what each distiller does'),
    'new-config': ('mmdistill_dense.apps.recipes.new_config:main_new_config', 'combine a method with a pair by name'),
}
SPEAKING = ('new', 'run', 'train', 'test', 'suite')  # these show by themselves that they are at work


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ('-h', '--help') or words[0] not in COMMANDS:
        lines = [f'  {name:<11} {text}' for name, (_, text) in COMMANDS.items()]
        print('\n'.join(['usage: python -m mmdistill_dense COMMAND …   (COMMAND --help shows its options)', *lines]))
        if words and words[0] not in ('-h', '--help'):
            print(f'ERROR    {words[0]}: no such command. {close_or_all(words[0], COMMANDS)}', file=sys.stderr)
        return 0 if words and words[0] in ('-h', '--help') else 2
    module, _, function = COMMANDS[words[0]][0].partition(':')
    sys.argv[0] = f'python -m mmdistill_dense {words[0]}'  # what argparse shows as the program
    try:
        with nullcontext() if words[0] in SPEAKING else alive(words[0]):
            return getattr(import_module(module), function)(words[1:]) or 0
    except FileNotFoundError as error:
        if error.errno is not None and words[0] in SPEAKING:  # none of ours: the traceback tells where
            raise
        told = str(error) if error.errno is None else f'{error.filename}: no such file (working folder {Path.cwd()}).'
        print(f'ERROR    {told}', file=sys.stderr)
        return 2


if __name__ == '__main__':
    wait_briefly()
    sys.exit(main())
