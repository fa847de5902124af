"""Decide which method options fit which pair, from the line ``# fits: seg, teacher r101, data voc`` of their file.

The line is a comment because a variable would become a key of every config, and it is read without running the file.
Its items are a task (``seg``, ``det``, ``pretrain``) and words of the pair's name, each from one part of it:

- ``teacher …`` before ``_to_`` (or after ``_from_``), ``student …`` and ``data …`` on the other side, ``pair …``
  anywhere;
- ``variant …`` marks options that are used only when their variant is named;
- ``maps`` marks options for teachers that give maps and predict nothing, such as foundation models. Pairs with such a
  teacher take only these, and these fit no other pair.

All items must match, the words of an item in their order. Of the files that fit, the one with the most words is used;
a task counts less than any word. A pair with several teachers, ``…_and_…``, takes only options with the word ``and``,
and those fit no other pair.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

KINDS = ('seg', 'det', 'pretrain')
_SIDES = ('pair', 'teacher', 'student', 'data')
_LINE = re.compile(r'^# fits: (.+)$', re.MULTILINE)


class Fit(NamedTuple):
    """The items of a line ``# fits: …``."""

    tasks: tuple[str, ...]
    words: dict[str, tuple[str, ...]]
    variant: str | None
    maps: bool = False


def fit_of(path: Path) -> Fit:
    """Read the line ``# fits: …`` of a file."""
    return _fit_of(path, path.stat().st_mtime_ns)


@cache
def _fit_of(path: Path, modified: int) -> Fit:
    line = _LINE.search(path.read_text(encoding='utf-8'))
    if line is None:
        raise ValueError(f"{path}: no line says what these options fit; add one such as '# fits: seg, teacher r101'.")
    tasks, words, variant, maps = [], {}, None, False
    for item in line[1].split(','):
        key, *rest = item.split()
        if key in KINDS and not rest:
            tasks.append(key)
        elif key == 'variant' and len(rest) == 1:
            variant = rest[0]
        elif item.strip() == 'maps':
            maps = True
        elif key in _SIDES and rest:
            words[key] = tuple(rest)
        else:
            known = ', '.join([*KINDS, *(f"'{side} …'" for side in _SIDES), "'variant …'", 'maps'])
            raise ValueError(f'{path}: unknown item {item.strip()!r} in {line[0]!r}; known: {known}.')
    return Fit(tuple(tasks), words, variant, maps)


def best(files: Iterable[Path], pair: str, task: str, variant: str | None = None, maps: bool = False) -> Path | None:
    """Return the file of this variant that fits a pair best; ``maps``: whether its teacher gives maps alone."""
    ranked: dict[tuple[int, int], list[Path]] = {}
    for path in files:
        fit = fit_of(path)
        rank = _rank(fit, pair, task) if (fit.variant, fit.maps) == (variant, maps) else None
        if rank is not None:
            ranked.setdefault(rank, []).append(path)
    found = ranked[max(ranked)] if ranked else []
    if len(found) > 1:
        names = ' and '.join(path.name for path in found)
        raise ValueError(f"{names} fit {pair} equally well; one of them needs one more word in its line '# fits: …'.")
    return found[0] if found else None


def _rank(fit: Fit, pair: str, task: str) -> tuple[int, int] | None:
    sides = _sides(pair)
    asked = [word for words in fit.words.values() for word in words]
    if ('and' in asked) != ('and' in sides['pair']) or not set(fit.tasks) <= {task}:
        return None
    if not all(_in_order(words, sides[side]) for side, words in fit.words.items()):
        return None
    return len(asked), len(fit.tasks)


def _in_order(words: Sequence[str], name: Sequence[str]) -> bool:
    rest = iter(name)
    return all(word in rest for word in words)  # ``in`` consumes what it passes


def _sides(pair: str) -> dict[str, list[str]]:
    words = pair.split('_')
    teacher = student = words
    if 'to' in words:
        teacher, student = words[: words.index('to')], words[words.index('to') + 1 :]
    elif 'from' in words:
        student, teacher = words[: words.index('from')], words[words.index('from') + 1 :]
    return {'pair': words, 'teacher': teacher, 'student': student, 'data': student}
