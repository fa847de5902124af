"""Files that run code when they are read carelessly: the code creates a file, which a test then looks for."""

import io
import os
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from mmengine.logging import HistoryBuffer


class Reduced:
    """Pickles as a call."""

    def __init__(self, function, *arguments, state=None):
        self.answer = (function, arguments, state) if state else (function, arguments)

    def __reduce__(self):
        return self.answer


def write(path: Path, mark: Path, state: dict | None = None, new_format: bool = True) -> Path:
    """A checkpoint of weights with the payload beside them."""
    extra = [Reduced(exec, f'open({str(mark)!r}, "w")')]
    content = dict(state_dict=state or dict(w=torch.zeros(1)), meta={}, extra=extra)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path, _use_new_zipfile_serialization=new_format)
    return path


def trusting_torch() -> Any:
    """The setting by which a user makes torch run whatever a file holds, where the caller leaves the choice to it."""
    return mock.patch.dict(os.environ, TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD='1')


def written(content, **options):
    torch.save(content, file := io.BytesIO(), **options)
    return file.getvalue()


def unequal(ours, theirs, place='file'):
    """Places where two contents differ in type or value, bit for bit."""
    if type(ours) is not type(theirs):
        return [f'{place}: {type(ours).__name__} for {type(theirs).__name__}']
    if isinstance(ours, (HistoryBuffer, Namespace)):
        return unequal(vars(ours), vars(theirs), place)
    if isinstance(ours, Mapping):
        found = [f'{place}: {list(ours)} for {list(theirs)}'] if list(ours) != list(theirs) else []
        return found + [one for key in ours for one in unequal(ours[key], theirs[key], f'{place}.{key}')]
    if isinstance(ours, (list, tuple)) and len(ours) == len(theirs):
        pairs = enumerate(zip(ours, theirs, strict=True))
        return [one for index, pair in pairs for one in unequal(*pair, f'{place}.{index}')]
    if isinstance(ours, torch.Tensor):
        same = ours.dtype == theirs.dtype and torch.equal(ours, theirs)
    elif isinstance(ours, (np.ndarray, np.generic)):
        same = ours.dtype == theirs.dtype and ours.shape == theirs.shape and ours.tobytes() == theirs.tobytes()
    else:
        same = ours == theirs
    return [] if same else [f'{place}: {ours!r} for {theirs!r}']
