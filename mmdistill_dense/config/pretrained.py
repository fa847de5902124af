"""Take the options that load pre-trained weights out of a model config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def without_pretrained(model: Any) -> Any:
    """Return a copy of a model config without the options that load pre-trained weights."""
    if isinstance(model, Mapping):
        kept = {}
        for name, value in model.items():
            if name in ('pretrained', 'teacher_ckpt'):  # the second belongs to mmdet's own distilling detectors
                value = None
            elif name == 'init_cfg' and isinstance(value, (list, tuple)):
                value = [member for member in value if not _fetches(member)]
            elif name == 'init_cfg' and _fetches(value):
                continue
            kept[name] = without_pretrained(value)
        return kept
    if isinstance(model, (list, tuple)):
        return type(model)(without_pretrained(member) for member in model)
    return model


def _fetches(init_cfg: Any) -> bool:
    # mmdet's PVT also loads the checkpoint of an init_cfg without a type.
    return isinstance(init_cfg, Mapping) and ('Pretrained' in str(init_cfg.get('type')) or 'checkpoint' in init_cfg)
