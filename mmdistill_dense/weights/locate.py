"""Find the file of a checkpoint option, and check its hash.

The option may be a file, an address, or ``'auto'`` for the weights that a package's metafiles publish.
"""

from __future__ import annotations

import hashlib
import os
import re
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from mmdistill_dense.config.resolve import package_root
from mmdistill_dense.utils.messages import some
from mmdistill_dense.weights.safe_load import INDEX, part_files

_HASHED_NAME = re.compile(r'-([0-9a-f]{8,64})\.(?:pth|pt|safetensors)$')


def published_weights(name: str) -> str:
    """Return the address of the weights that a package's own metafiles publish for a config.

    Args:
        name: ``'package::folder/file.py'``.

    Raises:
        ValueError: When ``name`` is no zoo name, or the package does not publish exactly one file for it.
    """
    if '::' not in name:
        raise ValueError(
            f"checkpoint='auto' needs a zoo config such as 'mmseg::…', got cfg={name!r}; give the file instead."
        )
    package, _, rest = name.partition('::')
    config = 'configs/' + (rest if rest.endswith('.py') else f'{rest}.py')
    urls = _published(package).get(config, [])
    if len(urls) != 1:
        found = 'publishes no weights' if not urls else f'publishes {len(urls)} files ({", ".join(urls)})'
        raise ValueError(
            f"checkpoint='auto': {package} {found} for {config}; give the file or its address as checkpoint."
        )
    return urls[0]


@cache
def _published(package: str) -> dict[str, list[str]]:
    root = package_root(package)
    table: dict[str, list[str]] = {}
    for metafile in _read_yaml(root / 'model-index.yml')['Import']:
        if not (root / metafile).is_file():
            continue
        content = _read_yaml(root / metafile)
        for model in content.get('Models', content) if isinstance(content, dict) else content:
            weights = model.get('Weights') or []
            urls = table.setdefault(model.get('Config', ''), [])
            urls.extend(url for url in ([weights] if isinstance(weights, str) else weights) if url not in urls)
    return table


def _read_yaml(path: Path) -> Any:
    loader = getattr(yaml, 'CSafeLoader', yaml.SafeLoader)
    return yaml.load(path.read_text(encoding='utf-8'), Loader=loader)


def local_file(checkpoint: str, config: str | None, key: str) -> Path:
    """Return the local file of a checkpoint option, downloaded if it is an address, its hash checked.

    Args:
        checkpoint: A file, an ``http(s)`` address with a hash (:func:`promised_hash`), or ``'auto'``.
        config: The config's zoo name, which ``'auto'`` needs.
        key: The config key to name in an error, e.g. ``'teacher.checkpoint'``.

    Raises:
        FileNotFoundError: For a missing file.
        ValueError: For an address without a hash, content with another hash, or ``'auto'`` without published weights.
        OSError: When a download fails.
    """
    if checkpoint == 'auto':
        checkpoint = published_weights(config or '')
    if re.match(r'https?://', checkpoint):
        promised = promised_hash(checkpoint)
        if promised is None:
            raise ValueError(
                f'{key}={checkpoint!r}: this address has no hash to check the file with. Add the SHA-256 of the file '
                'to it (…#sha256=<hexadecimal digits>), or download the file, check it and give its path.'
            )
        folder = Path(os.getenv('MMDISTILL_CACHE', Path.home() / '.cache' / 'mmdistill_dense')) / 'checkpoints'
        path = download(checkpoint, folder, key)
    else:
        path = Path(checkpoint).expanduser()
        promised = promised_hash(path.name)
        if not path.is_file():
            raise FileNotFoundError(f'{key}={checkpoint!r}: no such file (working folder {Path.cwd()}).{_beside(path)}')
    check_promise(path, promised, key)
    return path


def _beside(path: Path) -> str:
    """Say which checkpoints lie where a missing one was looked for."""
    if not path.parent.is_dir():
        return f' There is no folder {str(path.parent)!r} either.'
    names = sorted(entry.name for entry in path.parent.iterdir() if entry.suffix in ('.pth', '.pt', '.safetensors'))
    return f' The folder holds {some(names) or "no checkpoint"}.'


def promised_hash(address: str) -> str | None:
    """Return the first digits of the SHA-256 in a name (``…-1a2b3c4d.pth``) or an address (``…#sha256=…``).

    Raises:
        ValueError: When ``#sha256=`` is not followed by a hash.
    """
    path, marker, given = address.partition('#sha256=')
    if marker and not re.fullmatch(r'[0-9a-fA-F]{8,64}', given):
        raise ValueError(f'{address!r}: #sha256= must be followed by 8 to 64 hexadecimal digits, got {given!r}.')
    named = _HASHED_NAME.search(urlsplit(path).path)
    return given.lower() or (named[1] if named else None)


def check_promise(path: Path, promised: str | None, key: str) -> None:
    """Check that a file has the promised SHA-256, if one was promised.

    Raises:
        ValueError: When it has another one.
    """
    if promised and not sha256(path).startswith(promised):
        raise ValueError(
            f'{key}={str(path)!r}: the content has SHA-256 {sha256(path)[:8]}…, but its name promises {promised}: '
            'the file is damaged or another one. Delete it and download it again, or rename it if you made it.'
        )


def download(url: str, folder: Path, key: str) -> Path:
    """Download an address into a folder unless a file of that name exists, check its hash, and return its path.

    Raises:
        OSError: When the download fails, or the content does not have the promised SHA-256.
    """
    from torch import hub

    address = url.partition('#')[0]
    path = folder / Path(urlsplit(address).path).name
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        try:
            hub.download_url_to_file(address, str(path), hash_prefix=promised_hash(url))
        except (OSError, RuntimeError) as error:
            raise OSError(
                f'{key}: could not download {address} ({error}). Download it elsewhere and give the file.'
            ) from error
    return path


@cache
def _sha256(path: str, size: int, modified: int) -> str:
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal; of an index of several files, that of their hashes."""
    if path.name.endswith(INDEX):
        parts = ''.join(sha256(path.parent / name) for name in sorted(part_files(path)))
        return hashlib.sha256(parts.encode()).hexdigest()
    stat = path.stat()
    return _sha256(str(path.absolute()), stat.st_size, stat.st_mtime_ns)
