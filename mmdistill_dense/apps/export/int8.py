"""Write an ONNX graph with 8-bit weights and activations, calibrated on training pictures."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.runner import Runner
from mmengine.runner.utils import set_random_seed
from torch import Tensor

from mmdistill_dense.apps.export.graphs import ENTRY, require
from mmdistill_dense.apps.export.write_student import load_student
from mmdistill_dense.utils.reproducible import without_workers

ENDING = '.int8.onnx'


def quantise(config: Config, checkpoint: str | Path, graph: str | Path, pictures: int) -> Path:
    """Write the 8-bit graph of an exported one beside it, by onnxruntime's static quantisation.

    Weights become int8, with a scale for each output channel; activations become uint8, with the smallest and largest
    value over the calibration pictures as their range. Sums stay 32-bit. The file keeps the description of the graph.
    """
    source = Path(graph)
    if pictures < 1 or source.suffix != '.onnx':
        raise ValueError(f'int8 needs an .onnx file and at least 1 picture, got {str(graph)!r} and {pictures}.')
    require('onnx')
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    plain, network, _, _ = load_student(config, checkpoint)
    out = source.with_suffix(ENDING)
    with tempfile.TemporaryDirectory(dir=source.parent) as folder:
        folded, done = Path(folder, 'folded.onnx'), Path(folder, 'int8.onnx')
        quant_pre_process(str(source), str(folded), skip_symbolic_shape=True)  # folds norms into convolutions
        quantize_static(
            str(folded),
            str(done),
            _Reader(training_pictures(plain, network, pictures)),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            weight_type=QuantType.QInt8,
            activation_type=QuantType.QUInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )
        _keep_description(source, done)
        done.replace(out)
    return out


def training_pictures(config: Config, network: Any, count: int) -> Iterator[Tensor]:
    """Yield normalised training pictures (1, 3, H, W), the same ones at each call."""
    set_random_seed(0)
    # One by one, padded as in training: a graph of one size takes them too.
    loader = Runner.build_dataloader({**without_workers(config.train_dataloader), 'batch_size': 1}, seed=0)
    return islice((network.data_preprocessor(batch, training=True)['inputs'] for batch in loader), count)


class _Reader:
    """What onnxruntime calls a ``CalibrationDataReader``."""

    def __init__(self, pictures: Iterator[Tensor]) -> None:
        self.pictures = pictures

    def get_next(self) -> dict[str, Any] | None:
        """Return the next input, ``None`` at the end."""
        found = next(self.pictures, None)
        return None if found is None else {'image': found.numpy()}


def _keep_description(source: Path, path: Path) -> None:
    import onnx

    quantised = onnx.load(str(path))
    kept = {one.key: one.value for one in onnx.load(str(source)).metadata_props if one.key == ENTRY}
    onnx.helper.set_model_props(quantised, kept)
    onnx.save(quantised, str(path))
