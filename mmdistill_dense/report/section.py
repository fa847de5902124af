"""What a page is made of: sections with charts, tables and panels of pictures."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from mmdistill_dense.utils.messages import text_of

QUALITY = 82  # of WebP: label colours stay apart, a picture of 640 pixels takes about 30 kB
SIDE = 640  # longest side of a picture on the page


class Missing(Exception):
    """A part that cannot be shown; the message says why and what would show it."""


@dataclass(frozen=True)
class Chart:
    """A plotly figure.

    Attributes:
        title: Stands above it.
        alt: Says in words what it shows.
        figure: ``data`` and ``layout`` as JSON.
        wide: Takes the whole width.
    """

    title: str
    alt: str
    figure: str
    wide: bool = False


@dataclass(frozen=True)
class Table:
    """Cells are shown as they are; the first of a row names it."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Panel:
    """A picture with what it shows, in short and for those who do not see it."""

    caption: str
    alt: str
    source: str
    width: int
    height: int


@dataclass(frozen=True)
class Viewer:
    """Panels of the same scene, two of which lie over each other with a boundary that can be moved.

    Attributes:
        title: Names the scene.
        panels: In order.
        left: Number of the panel that is shown left of the boundary at first.
        right: The other one.
    """

    title: str
    panels: Sequence[Panel]
    left: int
    right: int


@dataclass(frozen=True)
class Group:
    """Panels that stand side by side under a title."""

    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True)
class Key:
    """A colour and its meaning.

    Attributes:
        colour: As CSS has it.
        meaning: For people.
        line: CSS style of a border for a line, empty for an area.
    """

    colour: str
    meaning: str
    line: str = ''


@dataclass
class Section:
    """A part of the page.

    Attributes:
        name: For links.
        title: For people.
        note: How to read it.
        items: Charts, tables, viewers and groups in order.
        more: Further items, folded away.
        legend: Colours.
        reasons: What is left out, and why.
    """

    name: str
    title: str
    note: str = ''
    items: list[Any] = field(default_factory=list)
    more: list[Any] = field(default_factory=list)
    legend: list[Key] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    def attempt(self, part: Callable[[], Any], where: str = '') -> None:
        """Add what a function returns, or the reason why it cannot.

        Data, checkpoints and configs of a run may have gone since, which is no reason not to show the rest.
        """
        try:
            found = part()
        except Missing as reason:
            self.reasons.append(f'{where}{reason}')
        except (KeyError, TypeError, ValueError, OSError, RuntimeError, AttributeError, ImportError) as error:
            kind = '' if isinstance(error, (ValueError, FileNotFoundError)) else f'{type(error).__name__}: '
            self.reasons.append(f'{where}{kind}{text_of(error).strip()}')
        else:
            self.items.extend(found if isinstance(found, list) else [found])


def panel(image: np.ndarray, caption: str, alt: str) -> Panel:
    """Return a picture (H, W, 3), RGB uint8, for the page; a large one is made smaller."""
    height, width = image.shape[:2]
    scale = SIDE / max(height, width)
    if scale < 1:
        image = cv2.resize(image, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA)
    done, data = cv2.imencode('.webp', np.ascontiguousarray(image[..., ::-1]), [cv2.IMWRITE_WEBP_QUALITY, QUALITY])
    if not done:
        raise RuntimeError('opencv could not write a WebP picture')
    source = 'data:image/webp;base64,' + base64.b64encode(data.tobytes()).decode('ascii')
    return Panel(caption, alt, source, image.shape[1], image.shape[0])
