"""The code blocks of the guides and what the tests do with them."""

import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
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
        found = re.match(r'(?:# |<!-- )([\w/]+\.(?:py|yaml|md))\b', self.text)
        return found[1] if found else None


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
    found = {(guide, text) for guide in GUIDES for text in INLINE.findall(guide.read_text(encoding='utf-8'))}
    return [Block(guide, 0, 'inline', text) for guide, text in sorted(found)]


def commands(text: str) -> list[Command]:
    """The commands of a shell text; what stands in square brackets, and may be left out, is there without them."""
    found = []
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
                found.append(command)
    return [command for command in found if command.words]
