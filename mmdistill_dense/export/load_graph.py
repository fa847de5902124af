"""Run exported graphs without the original network, and read their descriptions."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmdistill_dense.export.description import ENTRY
from mmdistill_dense.export.formats import SIDE_FILE, format_of, require


def open_graph(path: str | Path) -> Callable[[Tensor], list[Tensor]]:
    """Return a function from a normalised image ``(B, 3, H, W)`` to the outputs of an exported graph, on the CPU.

    Files of graphs are programs: open only those whose source you trust.

    Args:
        path: An ``.onnx`` file (run by onnxruntime), ``.pt`` (TorchScript) or ``.pt2`` (``torch.export``).
    """
    kind = format_of(Path(path), None)
    if kind not in ('onnx', 'torchscript', 'exported'):
        raise ValueError(f'{str(path)!r} holds weights and no graph.')
    run, shape = _runner(kind, path), _shape(path)

    def checked(image: Tensor) -> list[Tensor]:
        if any(isinstance(size, int) and size != own for size, own in zip(shape, image.shape, strict=False)):
            raise ValueError(
                f'{str(path)!r} takes pictures of the shape {", ".join(map(str, shape))}, got {tuple(image.shape)}. '
                'Another height and width need a graph of their own: export with --size H W.'
            )
        return run(image)

    return checked


def _shape(path: str | Path) -> Sequence[int | str]:
    """Return the sizes of the axes, names for free ones; nothing for a file that does not describe itself."""
    try:
        return read_description(path)['input']['shape']
    except (ValueError, KeyError):
        return ()


def _runner(kind: str, path: str | Path) -> Callable[[Tensor], list[Tensor]]:
    if kind == 'onnx':
        return _onnx(path)
    program: Any = torch.jit.load(str(path)) if kind == 'torchscript' else torch.export.load(path).module()

    def run(image: Tensor) -> list[Tensor]:
        with torch.no_grad():
            return list(program(image))

    return run


def _onnx(path: str | Path) -> Callable[[Tensor], list[Tensor]]:
    require('onnx')
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])
    return lambda image: [torch.from_numpy(output) for output in session.run(None, {'image': image.numpy()})]


def read_description(path: str | Path) -> dict[str, Any]:
    """Return the description inside an exported file of any format, see :func:`mmdistill_dense.export.describe`."""
    kind = format_of(Path(path), None)
    if kind in ('pth', 'safetensors'):
        from mmdistill_dense.weights.safe_load import read_checkpoint

        found = read_checkpoint(path).get('meta', {}).get('student')
    elif kind == 'onnx':
        require('onnx')
        import onnx

        properties = onnx.load(str(path), load_external_data=False).metadata_props
        found = next((json.loads(one.value) for one in properties if one.key == ENTRY), None)
    else:
        files: dict[str, Any] = {SIDE_FILE: ''}
        if kind == 'torchscript':
            torch.jit.load(str(path), _extra_files=files)
        else:
            torch.export.load(path, extra_files=files)
        found = json.loads(files[SIDE_FILE] or 'null')
    if not found:
        raise ValueError(f'{str(path)!r} has no description: it was not written by tools/export_student.py.')
    return found
