"""The Hugging Face hub: ``hf://user/repo/file`` is read through ``huggingface_hub``, which keeps what it fetched."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mmdistill_dense.weights.safe_load import INDEX, part_files

HUB = 'hf://'
_ADDRESS = re.compile(r'hf://([^/@]+/[^/@]+)(?:@([^/]+))?/(.+)')


def hub_file(address: str, key: str) -> Path:
    """Return the local file of ``hf://user/repo/file`` or ``hf://user/repo@revision/file``.

    The files that an index lists are fetched too.

    Args:
        address: The file; ``#sha256=`` may follow, which :func:`strict_load.local_file` checks.
        key: The config key to name in an error.
    """
    found = _ADDRESS.fullmatch(address.partition('#')[0])
    if not found:
        raise ValueError(f'{key}={address!r}: write hf://user/repo/file, or hf://user/repo@revision/file.')
    repository, revision, name = found.groups()

    def fetch(one: str) -> Path:
        what = f'{key}={address!r}'
        return Path(_ask(what, lambda hub: hub.hf_hub_download(repository, one, revision=revision)))

    path = fetch(name)
    for part in part_files(path) if name.endswith(INDEX) else ():
        fetch(str(Path(name).with_name(part)))
    return path


def push(repository: str, folder: Path, names: Sequence[str]) -> str:
    """Upload files of a folder, and return the address of the commit; a new repository is private."""

    def upload(hub: Any) -> str:
        hub.HfApi().create_repo(repository, private=True, exist_ok=True)
        return str(hub.HfApi().upload_folder(repo_id=repository, folder_path=folder, allow_patterns=[*names]))

    return _ask(f'--push {repository}', upload)


def _ask(what: str, question: Callable[[Any], Any]) -> Any:
    """Return what the hub answers to a question."""
    try:
        import huggingface_hub
        from huggingface_hub.errors import LocalEntryNotFoundError
    except ImportError as error:
        raise ModuleNotFoundError(
            f"{what}: needs huggingface_hub: pip install 'mmdistill_dense[hub]', or pip install huggingface_hub"
        ) from error
    try:
        return question(huggingface_hub)
    except LocalEntryNotFoundError as error:
        raise OSError(
            f'{what}: the hub does not answer (or HF_HUB_OFFLINE is set), and the file is not in its cache. Try again '
            'with a connection, or give a file that you downloaded elsewhere.'
        ) from error
    except Exception as error:  # its HTTP library has errors of its own
        said = str(error).strip().partition('\n')[0] or type(error).__name__
        raise OSError(
            f'{what}: the hub says: {said} Check the names and the revision; private repositories need HF_TOKEN.'
        ) from error
