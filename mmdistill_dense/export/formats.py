"""Write graphs as ONNX, TorchScript or ``torch.export``, each with its description inside the file."""

from __future__ import annotations

import importlib.util
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmdistill_dense.export.description import ENTRY
from mmdistill_dense.export.graphs import Graph

FORMATS = {'pth': '.pth', 'safetensors': '.safetensors', 'onnx': '.onnx', 'torchscript': '.pt', 'exported': '.pt2'}
SIDE_FILE = f'{ENTRY}.json'
AXES = {'batch': 0, 'height': 2, 'width': 3}


def write_torchscript(graph: Graph, image: Tensor, axes: Sequence[str], path: Path, about: Mapping[str, Any]) -> None:
    """Write a traced graph; only running it shows which axes take other sizes."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # one for each shape that is read
        traced = torch.jit.trace(graph, image, check_trace=False)
        torch.jit.save(traced, str(path), _extra_files={SIDE_FILE: json.dumps(about)})


def write_exported(graph: Graph, image: Tensor, axes: Sequence[str], path: Path, about: Mapping[str, Any]) -> None:
    """Write a program of ``torch.export``."""
    torch.export.save(_program(graph, image, axes), path, extra_files={SIDE_FILE: json.dumps(about)})


def write_onnx(graph: Graph, image: Tensor, axes: Sequence[str], path: Path, about: Mapping[str, Any]) -> None:
    """Write a graph of ONNX in one file."""
    program = torch.onnx.export(
        _program(graph, image, axes),
        dynamo=True,
        input_names=['image'],
        output_names=list(about['outputs']),
        verbose=False,
    )
    assert program is not None
    program.model.metadata_props[ENTRY] = json.dumps(about)
    program.save(str(path), external_data=False)


WRITERS = {'onnx': write_onnx, 'torchscript': write_torchscript, 'exported': write_exported}


def _program(graph: Graph, image: Tensor, axes: Sequence[str]) -> torch.export.ExportedProgram:
    free = {AXES[name]: torch.export.Dim.DYNAMIC for name in axes}
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return torch.export.export(graph, (image,), dynamic_shapes=(free,) if free else None)


def format_of(path: Path, name: str | None) -> str:
    """Return the format of a path's ending, which must be the named one if a name is given."""
    by_ending = {ending: kind for kind, ending in FORMATS.items()}
    found = by_ending.get(path.suffix)
    if found is None or name not in (None, found):
        endings = ', '.join(f'{kind} {ending}' for kind, ending in FORMATS.items())
        raise ValueError(f'out={str(path)!r}: the ending does not fit the format {name or ""} ({endings}).')
    return found


def check_spared(out: Path, checkpoint: str | Path) -> None:
    """Check that an export does not replace the checkpoint that it reads."""
    if out.exists() and Path(checkpoint).exists() and out.samefile(checkpoint):
        raise FileExistsError(
            f'out={str(out)!r} is the checkpoint itself, which would lose what a run resumes from. Choose another name.'
        )


def require(name: str) -> None:
    """Check that what a format needs is installed."""
    needs = ('onnx', 'onnxscript', 'onnxruntime') if name == 'onnx' else ()
    missing = [module for module in needs if importlib.util.find_spec(module) is None]
    if missing:
        raise ModuleNotFoundError(
            f"format {name!r} needs {', '.join(missing)}: pip install 'mmdistill_dense[export]', or in a checkout "
            "pip install -e '.[export]'."
        )
