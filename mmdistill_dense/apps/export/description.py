"""The description inside an exported file: inputs, outputs and origin of the student."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmdistill_dense.utils.version import __version__
from mmdistill_dense.weights.locate import sha256

ENTRY = 'mmdistill_dense'  # the name of the description in every format's metadata


def describe(config: Config, meta: Mapping[str, Any], checkpoint: Path) -> dict[str, Any]:
    """Return a description of a student in plain values, for JSON."""
    data = meta.get('dataset_meta') or {}
    return {
        'model': str(config.model.get('type')),
        'input': _input(config.model.get('data_preprocessor') or {}),
        'classes': _plain(data.get('classes')),
        'palette': _plain(data.get('palette')),
        'test_cfg': _plain(config.model.get('test_cfg')),
        'source': {
            'file': checkpoint.name,
            'sha256': sha256(checkpoint),
            **{key: _plain(meta[key]) for key in ('epoch', 'iter', 'seed') if key in meta},
            'mmdistill_dense': __version__,
        },
    }


def _input(preprocessor: Mapping[str, Any]) -> dict[str, Any]:
    return {
        'name': 'image',
        'layout': 'NCHW',
        'dtype': 'float32',
        # Pictures are loaded as BGR, and stay so unless the preprocessor turns them; either option turns them.
        'channels': 'RGB' if preprocessor.get('bgr_to_rgb') or preprocessor.get('rgb_to_bgr') else 'BGR',
        'mean': [float(value) for value in preprocessor.get('mean') or [0.0] * 3],
        'std': [float(value) for value in preprocessor.get('std') or [1.0] * 3],
        'normalised': '(pixel - mean) / std, for pixels from 0 to 255, in the order of channels',
        # mmdet's preprocessor always pads, mmseg's in a test as its test_cfg says.
        'pad_size_divisor': int(
            preprocessor.get('pad_size_divisor') or (preprocessor.get('test_cfg') or {}).get('size_divisor') or 1
        ),
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(member) for key, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(member) for member in value]
    if hasattr(value, 'tolist'):
        return value.tolist()
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
