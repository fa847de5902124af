"""The code blocks of the guides, and whether a command is understood: by its own parser, and its files exist."""

import argparse
import importlib.util
import os
import re
import runpy
import shlex
import sys
from configparser import ConfigParser
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from unittest import mock

from mmdistill_dense.__main__ import COMMANDS
from mmdistill_dense.apps.recipes.named import find_named

ROOT = Path(__file__).parents[1]


def text_of(name: str) -> str:
    """The text of a file of the project."""
    return (ROOT / name).read_text(encoding='utf-8')


GUIDES = [
    ROOT / 'README.md', ROOT / 'CONTRIBUTING.md',
    *sorted((ROOT / 'docs').rglob('*.md')), *sorted(ROOT.glob('configs/*/README.md')),
]  # fmt: skip
FENCE = re.compile(r'^```(\w*)[^\n]*\n(.*?)^```$', re.DOTALL | re.MULTILINE)
INLINE = re.compile(
    r'`((?:python (?:tools/|-m )|mmdistill [a-z-]|make [a-z]|mim (?:train|test) |bash (?:tools/|\.ci/)|'
    r'pip install )[^`\n]*)`'
)
NEEDS = re.compile(r'# needs (.+)$', re.MULTILINE)
ASSIGNMENT = re.compile(r'[A-Z_]+=')


@dataclass(frozen=True)
class Block:
    """A fenced block of a guide."""

    guide: Path
    number: int
    language: str
    text: str

    @property
    def key(self) -> str:
        """Names the block in a report."""
        return f'{self.guide.relative_to(ROOT)}-{self.language or "text"}-{self.number}'

    @property
    def needs(self) -> list[str]:
        """What the tests do not have and the block says that it needs (``# needs …``)."""
        return NEEDS.findall(self.text)

    @property
    def form(self) -> bool:
        """Whether it has places to fill in (``CONFIG``), or changes the reader's environment: it is read, not run."""
        words = [word for command in commands(self.text) for word in command.words]
        return any(re.fullmatch(r'[A-Z][A-Z_]{2,}', word) or word in ('pip', 'git') for word in words)

    @property
    def file(self) -> str | None:
        """The name in the block's first line, which makes it a file of the reader's."""
        actual = re.match(r'(?:# |<!-- )([\w/]+\.(?:py|yaml|md))\b', self.text)
        return actual[1] if actual else None


@dataclass
class Command:
    """One command of a shell block: variables before it, and its words."""

    words: list[str]
    variables: dict[str, str] = field(default_factory=dict)


def blocks(*languages: str) -> list[Block]:
    """The blocks of all guides in these languages."""
    return [
        Block(guide, number, language, text)
        for guide in GUIDES
        for number, (language, text) in enumerate(FENCE.findall(guide.read_text(encoding='utf-8')))
        if language in languages
    ]


def inline() -> list[Block]:
    """Whole commands that stand inside a sentence."""
    actual = {(guide, text) for guide in GUIDES for text in INLINE.findall(guide.read_text(encoding='utf-8'))}
    return [Block(guide, 0, 'inline', text) for guide, text in sorted(actual)]


def commands(text: str) -> list[Command]:
    """The commands of a shell text; what stands in square brackets, and may be left out, is there without them."""
    actual = []
    for line in text.replace('\\\n', ' ').replace('<this repository>', 'REPOSITORY').splitlines():
        plain = re.sub(r'\[(-[^]]*|[A-Z]+)\]', r'\1', re.sub(r'(?<= )…', 'KEY=VALUE', line))
        lexer = shlex.shlex(plain, posix=True, punctuation_chars='&;|>')
        lexer.whitespace_split, lexer.commenters = True, '#'
        words: list[str] = []
        for word in [*lexer, ';']:
            if set(word) - set('&;|>') or (words and word[0] == '>'):
                words.append(word)
            elif words:
                command, words = Command(words[: words.index('>')] if '>' in words else words), []
                if command.words[0] in ('do', 'done', 'for'):
                    command.words = command.words[1:] if command.words[0] == 'do' else []
                while command.words and ASSIGNMENT.match(command.words[0]):
                    name, _, value = command.words.pop(0).partition('=')
                    command.variables[name] = value
                actual.append(command)
    return [command for command in actual if command.words]


HARMLESS = re.compile(r'\.|cd|docker|export|git|mkdir|mlflow|pre-commit|sh|bash|tensorboard|trtexec|uvx')
BUILD = ('CFLAGS', 'LDFLAGS', 'PYTHONPATH', 'CUDA_VISIBLE_DEVICES', 'WANDB_MODE')
NAME = re.compile(r'[a-z]+:[\w.+-]*_[\w.+-]+(:[\w-]+)?')
OWN = re.compile(r'(?:configs|examples|tools|benchmarks|docs|tests|requirements|mmdistill_dense)/[\w./+-]+\.\w+$')


def check(command: Command) -> None:
    """Raise an ``AssertionError`` or ``SystemExit`` where a command would not be understood."""
    exported = command.words[1:] if command.words[:1] == ['export'] else []
    for name in [*command.variables, *(word.partition('=')[0] for word in exported)]:
        assert name in BUILD or name in _sources(), f'nothing reads {name}'
    program, *words = [{'N': '1', 'SEED': '1'}.get(word, word) for word in command.words] or ['cd']
    for word in words:
        _check_file(word)
    if program in CHECKS:
        CHECKS[program](words)
    elif program.startswith('--'):
        _check_program(['train', 'CONFIG', program, *words])
    else:
        assert HARMLESS.fullmatch(program), f'an unknown program {program}'


@cache
def _sources() -> str:
    """What reads the variables that a guide sets."""
    python = [file for name in ('mmdistill_dense', 'configs/_base_') for file in (ROOT / name).rglob('*.py')]
    files = [ROOT / 'Makefile', *(ROOT / 'tools').iterdir(), *python]
    return '\n'.join(file.read_text(encoding='utf-8') for file in files if file.is_file())


def _check_file(word: str) -> None:
    if NAME.fullmatch(word):
        find_named(word)
    for part in re.split('[=,]', word):
        assert not OWN.match(part) or (ROOT / part).is_file(), f'{part} is not there'


def parse(script: Path, words: list[str]) -> None:
    """Let a script read these words and do nothing else."""
    original = argparse.ArgumentParser.parse_args

    def stop(self: argparse.ArgumentParser, *arguments: object, **options: object) -> None:
        original(self, *arguments, **options)  # type: ignore[call-overload]
        sys.exit(0)

    with (
        mock.patch.object(sys, 'argv', [str(script), *words]),
        mock.patch.object(sys, 'path', [str(script.parent), *sys.path]),
        mock.patch.object(argparse.ArgumentParser, 'parse_args', stop),
        mock.patch.dict(os.environ),
    ):
        try:
            runpy.run_path(str(script), run_name='__main__')
        except SystemExit as end:
            assert end.code == 0, f'{script.name} does not take {words}'
            return
    raise AssertionError(f'{script.name} reads no arguments')


def _check_python(words: list[str]) -> None:
    if words[0] == '-c':
        compile(words[1], 'command', 'exec')
    elif words[0] == '-m':
        assert importlib.util.find_spec(words[1]), words[1]
        if words[1] == 'mmdistill_dense':
            _check_program(words[2:])
    else:
        _check_words(ROOT / words[0], words[1:])


def _check_words(script: Path, words: list[str], *before: str) -> None:
    """Of a script, behind the name of its command; a script or a command alone is its name."""
    if len(words) == 1 and words[0].isalpha() and words[0].islower():  # the name of a subcommand in a sentence
        words = [*words, '--help']
    if words:
        parse(script, [*before, *words])


def _check_program(words: list[str]) -> None:
    if words[:1] in (['--help'], ['--version']):
        return
    assert words[0] in COMMANDS, words[0]
    _check_words(ROOT / 'mmdistill_dense/__main__.py', words[1:], words[0])


def _check_mim(words: list[str]) -> None:
    command, *rest = words
    if command == 'install':  # its arguments are pip's
        _check_pip(rest)
    elif len(rest) > 1:  # else `mim test` as a name
        arguments = import_module(f'mim.commands.{command}').cli.make_context(command, rest).params
        package = {'mmdetection': 'mmdet'}.get(arguments['package'], arguments['package'])
        folder = Path(importlib.util.find_spec(package).origin).parent / '.mim/tools'  # type: ignore[union-attr, arg-type]
        (script,) = folder.rglob(f'{arguments.get("command", command)}.py')
        checkpoint = [arguments.get('checkpoint') or 'CHECKPOINT'] if command == 'test' else []
        parse(script, [*([] if command == 'run' else [arguments['config'], *checkpoint]), *arguments['other_args']])


def _check_make(words: list[str]) -> None:
    text = (ROOT / 'Makefile').read_text(encoding='utf-8')
    for word in words:
        name, equals, _ = word.partition('=')
        pattern = rf'\$\({name}\)|export .*\b{name}\b' if equals else rf'^{name}:'
        assert re.search(pattern, text, re.MULTILINE), f'make knows no {name}'


def _check_pip(words: list[str]) -> None:
    setup = ConfigParser()
    setup.read(ROOT / 'setup.cfg')
    for extra in re.findall(r'\.\[([\w,]+)\]', ' '.join(words)):
        assert set(extra.split(',')) <= set(setup['options.extras_require']), extra
    pins = (ROOT / 'requirements/constraints.txt').read_text(encoding='utf-8').split()
    for word in words:
        assert '==' not in word or word in pins, f'{word} is not the version of requirements/constraints.txt'


def _check_launcher(words: list[str]) -> None:
    _check_program(words[next(n for n, word in enumerate(words) if word in ('mmdistill', 'mmdistill_dense')) + 1 :])


CHECKS = dict(python=_check_python, mmdistill=_check_program, mim=_check_mim, make=_check_make, pip=_check_pip)
CHECKS |= dict.fromkeys(('torchrun', 'srun'), _check_launcher)
