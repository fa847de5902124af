"""The program ``mmdistill``, also ``python -m mmdistill_dense``: one door to every command.

A command is a function that fills a parser and names what runs (``parser.set_defaults(run=…)``). It stands in a module
that imports nothing slow, so that help and mistakes are told at once.
"""

import argparse
import difflib
import os
import select
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, NoReturn

from mmdistill_dense.apps.options import start_processes
from mmdistill_dense.utils.files import FolderInUse
from mmdistill_dense.utils.lazy import require_stack
from mmdistill_dense.utils.process import heartbeat, interruptible, known_mistake, tell, wait_briefly
from mmdistill_dense.utils.validate import close_or_all, text_of
from mmdistill_dense.utils.version import removed, versions

GROUPS = {
    'From a folder of data to a small network': {
        'new': ('apps.project.cli:fill_new', 'write the configs for two networks and your data into one folder'),
        'run': ('apps.project.cli:fill_run', 'do all that is left of such a folder: train, compare, report, export'),
        'predict': ('apps.project.cli:fill_predict', 'use a student on pictures or folders of them'),
        'report': ('apps.options:fill_report', 'write a page about finished runs'),
        'export': ('apps.options:fill_export', 'write a student as weights or as a graph (ONNX, torch.export)'),
    },
    'With configs of your own': {
        'check': ('apps.options:fill_check', 'check a config before training'),
        'taps': ('apps.options:fill_taps', 'list the modules that can be compared'),
        'train': ('apps.options:fill_train', 'train with a config'),
        'test': ('apps.options:fill_test', 'test a checkpoint'),
        'tokens': ('apps.options:fill_tokens', 'learn the tokens of MasKD or FreeKD before training'),
    },
    'Compare methods': {
        'suite': ('apps.options:fill_suite', 'compare methods over several seeds in one table'),
    },
}
COMMANDS = {name: entry for group in GROUPS.values() for name, entry in group.items()}
OLD_NAMES = {'list-taps': 'taps'}  # names of earlier versions
_USER_ERRORS = (OSError, KeyError, ValueError, ModuleNotFoundError, FolderInUse)  # whose message is enough


class Parser(argparse.ArgumentParser):
    """A parser whose mistakes are one line: ``ERROR``, what is wrong, and a close name."""

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Read the words; an unknown option ends the program, with its name here if another program names it so."""
        options, unknown_words = self.parse_known_args(args)
        other_names = getattr(options, 'other_names', {})
        for option in [word for word in unknown_words if word.startswith('-')]:
            if option in other_names:
                self.error(f'{option}: {other_names[option]}')
            if removal := removed(f'{self.prog.removeprefix("mmdistill ")} {option.partition("=")[0]}'):
                self.error(removal)
            commands = [action.choices for action in self._actions if isinstance(action, argparse._SubParsersAction)]
            parsers = [self, *(parser for choices in commands for parser in choices.values())]
            names = [name for parser in parsers for name in parser._option_string_actions]
            close = difflib.get_close_matches(option, names, n=2)
            self.error(f'{option}: no such option.' + (f' Close: {", ".join(close)}.' if close else ''))
        if unknown_words:
            self.error(f'{" ".join(unknown_words)}: belongs to no option. A name with spaces stands in quotes.')
        return super().parse_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """End the program with status 2."""
        self.exit(2, f'ERROR    {message.rstrip(".")}. `{self.prog} --help` shows the options.\n')


def fill(parser: argparse.ArgumentParser, name: str) -> argparse.ArgumentParser:
    """Give a parser the options of a command."""
    resolve_name(f'mmdistill_dense.{COMMANDS[name][0]}')(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status: 2 for a mistake, which is told in one line."""
    try:
        try:
            return _main(list(sys.argv[1:] if argv is None else argv))
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        waiting = select.poll()
        with suppress(OSError, ValueError):  # no file, as in a notebook
            waiting.register(sys.stdout.fileno(), select.POLLERR)
        if not any(event & select.POLLERR for _, event in waiting.poll(0)):
            raise
        # who reads this stream has read enough, as in ``… | head``
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141  # as a shell reports a program that SIGPIPE ended
    except KeyboardInterrupt:
        print('stopped', file=sys.stderr)
        return 130  # as a shell reports Ctrl-C


def _main(words: list[str]) -> int:
    name = OLD_NAMES.get(words[0], words[0]) if words else ''
    if name == '--version':
        print('\n'.join(versions()))
        return 0
    if removal := removed(name, ' '.join([name, *words[1:2]])):
        print(f'ERROR    {removal}', file=sys.stderr)
        return 2
    if name not in COMMANDS:
        print('\n'.join(overview()))
        if name not in ('', '-h', '--help'):
            print(f'ERROR    {name}: no such command. {close_or_all(name, COMMANDS)}', file=sys.stderr)
        return 0 if name in ('-h', '--help') else 2
    args = fill(Parser(prog=f'mmdistill {name}'), name).parse_args(words[1:])
    started = False
    try:
        require_stack()
        start_processes(args, words)
        started = True
        stops = nullcontext if 'launcher' in args else interruptible  # a training itself saves at SIGTERM
        with stops(), nullcontext() if getattr(args, 'speaks', False) else heartbeat(name):
            return args.run(args) or 0
    except Exception as error:
        removal, raises = known_mistake(error), started and getattr(args, 'raises', False)
        mistakes = (*_USER_ERRORS, RuntimeError) if name == 'suite' else _USER_ERRORS
        if isinstance(error, BrokenPipeError) or not (removal or (isinstance(error, mistakes) and not raises)):
            raise
        if not removal and isinstance(error, FileNotFoundError) and error.errno is not None:
            removal = f'{error.filename}: no such file (working folder {Path.cwd()}).'
        if not removal and isinstance(error, ModuleNotFoundError) and error.name == 'mmcv._ext':
            needs = "detection and upstream's mmseg need them: build it (docs/install.md#detection)"
            removal = f'mmcv is installed without its compiled operations; {needs}.'
        tell(removal or text_of(error) or type(error).__name__)
        return 2


def overview() -> Iterator[str]:
    """Yield the lines of ``mmdistill --help``."""
    yield 'usage: mmdistill COMMAND …   (mmdistill COMMAND --help shows its options; mmdistill --version)'
    for title, group in GROUPS.items():
        yield f'\n{title}:'
        yield from (f'  {name:<13} {text}' for name, (_, text) in group.items())


def script(*words: str) -> None:
    """Be the program: what the console script, ``python -m mmdistill_dense`` and its aliases call."""
    wait_briefly()
    if code := main([*words, *sys.argv[1:]]):
        sys.exit(code)


if __name__ == '__main__':
    script()
