"""The backbone weights that a network's config would fetch, and whether they can be had."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from torch import hub

from mmdistill_dense.weights.mmengine_loader import address_of

SECONDS = 5  # to wait for an answer


def sources_of(model: Any) -> Iterator[str]:
    """Yield the files and addresses that ``pretrained`` and every ``init_cfg`` of a model config name."""
    if isinstance(model, Mapping):
        for key, value in model.items():
            if key in ('pretrained', 'checkpoint') and isinstance(value, str):
                yield value
            yield from sources_of(value)
    elif isinstance(model, (list, tuple)):
        for member in model:
            yield from sources_of(member)


def missing_of(model: Any) -> list[str]:
    """Return those that cannot be had: a missing file, or an address that is neither cached nor reachable."""
    return [source for source in dict.fromkeys(sources_of(model)) if not _available(source)]


def _available(source: str) -> bool:
    try:
        address = address_of(source)
    except KeyError:  # a name that is not published
        return False
    host = re.match(r'https?://[^/]+/', address)
    if host is None:
        return '://' in address or Path(address).expanduser().is_file()  # an object store cannot be asked here
    return (Path(hub.get_dir()) / 'checkpoints' / Path(address).name).is_file() or _reachable(host[0])


@cache
def _reachable(host: str) -> bool:
    try:
        with urllib.request.urlopen(urllib.request.Request(host, method='HEAD'), timeout=SECONDS):
            return True
    except urllib.error.HTTPError:  # an answer
        return True
    except (OSError, ValueError):
        return False
