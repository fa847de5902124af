"""The parts of a page: sections with charts, tables and pictures."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from mmdistill_dense.apps.inspect.drawing import shrunk
from mmdistill_dense.utils.messages import text_of

QUALITY = 82  # of WebP: label colours stay apart, a picture of 640 pixels takes about 30 kB
SIDE = 640  # longest side of a picture on the page


class Missing(Exception):
    """A part that cannot be made. The message says why, and what it needs."""


@dataclass(frozen=True)
class Chart:
    """A plotly figure as JSON, with a description for screen readers. A wide one takes the whole width."""

    title: str
    alt: str
    figure: str
    wide: bool = False


@dataclass(frozen=True)
class Table:
    """A table of text. The first cell of a row is its name."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Panel:
    """A picture with a caption and a description for screen readers."""

    caption: str
    alt: str
    source: str
    width: int
    height: int


@dataclass(frozen=True)
class Viewer:
    """Panels of one scene. The two with the indices ``left`` and ``right`` lie over each other at first."""

    title: str
    panels: Sequence[Panel]
    left: int
    right: int


@dataclass(frozen=True)
class Group:
    """Panels side by side under a title."""

    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True)
class Key:
    """A CSS colour and its meaning. ``line`` is the CSS style of a line, empty for an area."""

    colour: str
    meaning: str
    line: str = ''


Item = Chart | Table | Viewer | Group


@dataclass
class Section:
    """A part of the page."""

    name: str  # the anchor
    title: str
    note: str = ''  # how to read it
    items: list[Item] = field(default_factory=list)
    more: list[Item] = field(default_factory=list)  # further items, folded away
    legend: list[Key] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)  # what is left out, and why
    lead: list[str] = field(default_factory=list)  # the answer in words, before all else

    def attempt(self, part: Callable[[], Item | Sequence[Item] | None], where: str = '') -> None:
        """Add the result of a function, or the reason why it failed: data or checkpoints may be gone."""
        try:
            found = part()
        except Missing as reason:
            self.reasons.append(f'{where}{reason}')
        except (LookupError, TypeError, ValueError, OSError, RuntimeError, AttributeError, ImportError) as error:
            kind = '' if isinstance(error, (ValueError, FileNotFoundError)) else f'{type(error).__name__}: '
            self.reasons.append(f'{where}{kind}{text_of(error).strip()}')
        else:
            self.items.extend(found if isinstance(found, Sequence) else [found] if found else [])


def panel(image: np.ndarray, caption: str, alt: str) -> Panel:
    """Return a panel of a picture (H, W, 3), RGB uint8. A large picture is made smaller."""
    image = shrunk(image, SIDE)
    done, data = cv2.imencode('.webp', np.ascontiguousarray(image[..., ::-1]), [cv2.IMWRITE_WEBP_QUALITY, QUALITY])
    if not done:
        raise RuntimeError('opencv could not write a WebP picture')
    source = 'data:image/webp;base64,' + base64.b64encode(data.tobytes()).decode('ascii')
    return Panel(caption, alt, source, image.shape[1], image.shape[0])
