"""The backbone weights that a network's config would fetch, and whether they can be had."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

SECONDS = 5  # to wait for an answer
_HOSTS = {'torchvision': 'https://download.pytorch.org/', None: 'https://download.openmmlab.com/'}


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
    scheme, marker, name = source.partition('://')
    if not marker:
        return Path(source).expanduser().is_file()
    if _cached(name if scheme not in ('http', 'https') else Path(name).name):
        return True
    if scheme in ('http', 'https'):
        return _reachable(re.sub(r'^(https?://[^/]+/).*', r'\1', source))
    return _reachable(_HOSTS.get(scheme, _HOSTS[None]))


def _cached(name: str) -> bool:
    from torch import hub

    folder = Path(hub.get_dir()) / 'checkpoints'
    return (folder / name).is_file() or any(folder.glob(f'{Path(name).name}-*.pth'))


@cache
def _reachable(host: str) -> bool:
    try:
        with urllib.request.urlopen(urllib.request.Request(host, method='HEAD'), timeout=SECONDS):
            return True
    except urllib.error.HTTPError:  # an answer
        return True
    except (OSError, ValueError):
        return False
