"""Files that run code when they are read carelessly: the code creates a file, which a test then looks for."""

import os
from pathlib import Path
from typing import Any
from unittest import mock

import torch


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = str(mark)

    def __reduce__(self) -> Any:
        return exec, (f'open({self.mark!r}, "w")',)


def write(path: Path, mark: Path, state: dict | None = None, new_format: bool = True) -> Path:
    """A checkpoint of weights with the payload beside them."""
    content = dict(state_dict=state or dict(w=torch.zeros(1)), meta={}, extra=[Payload(mark)])
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path, _use_new_zipfile_serialization=new_format)
    return path


def trusting_torch() -> Any:
    """The setting by which a user makes torch run whatever a file holds, where the caller leaves the choice to it."""
    return mock.patch.dict(os.environ, TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD='1')
