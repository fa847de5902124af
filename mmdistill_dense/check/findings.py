"""The findings of a check, and the exit code that follows from them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

ERROR, WARNING, NOTE = 'error', 'warning', 'note'
LEVELS = (ERROR, WARNING, NOTE)


@dataclass(frozen=True)
class Finding:
    """One thing that a check found.

    Attributes:
        level: ``'error'`` (training would fail or be worthless), ``'warning'`` (it would run, probably not as meant) or
            ``'note'``.
        check: Name of the check.
        message: What was found, with the config keys.
        advice: What to do, if the message does not say it.
    """

    level: str
    check: str
    message: str
    advice: str = ''


Findings = Iterator[Finding]


def worst(findings: Iterable[Finding]) -> str:
    """Return the level of the most severe finding, ``'ok'`` if there are only notes."""
    levels = {finding.level for finding in findings}
    return next((level for level in (ERROR, WARNING) if level in levels), 'ok')


def exit_code(findings: Iterable[Finding], strict: bool = False) -> int:
    """Return 2 for an error, 1 for warnings if ``strict``, else 0."""
    level = worst(findings)
    return 2 if level == ERROR else int(strict and level == WARNING)
