"""Gains on other pages: the published gains follow ``<!-- results: SUITE ROW, SUITE ROW -->``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from mmdistill_dense.apps.suite.table import gain_cell
from tools.docs.scores import PAGE, Lines, rows_of

NOTHING = 'not measured yet'
_PLACE = re.compile(r'(?<!`)(?P<mark><!-- results: (?P<rows>[^>]*?) -->)[^|\n]*(?P<end>\s\||$)', re.MULTILINE)


def pages(root: Path) -> list[Path]:
    """Return the paths of the pages with such marks. The page of the results is not one of them."""
    files = sorted({*(root / PAGE.parent).rglob('*.md')} - {root / PAGE})
    return [file.relative_to(root) for file in files if _PLACE.search(file.read_text(encoding='utf-8'))]


def filled(text: str, scores: Mapping[str, Lines], page: Path) -> str:
    """Return a page with today's gains after every mark, up to the end of its table cell or line.

    Raises:
        ValueError: For a mark that does not hold pairs of a suite and a row.
    """

    def place(match: re.Match[str]) -> str:
        pairs = [tuple(pair.split()) for pair in match['rows'].split(',')]
        if any(len(pair) != 2 for pair in pairs):
            raise ValueError(f'{page}: {match["mark"]} must hold pairs of a suite and a row: camvid kd, camvid cwd')
        gains: dict[str, list[str]] = {}
        for suite, name in pairs:
            if name in scores.get(suite, {}):
                row = rows_of(scores[suite], [name], ())[name]
                gains.setdefault(suite, []).append(f'{name} {gain_cell(row)}')
        said = '; '.join(f'{suite}: {", ".join(rows)}' for suite, rows in gains.items())
        return f'{match["mark"]} {said or NOTHING}{match["end"]}'

    return _PLACE.sub(place, text)
