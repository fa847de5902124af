"""Small detectors with queries, of real configs of mmdet."""

import functools
from typing import Any

from mmdistill_dense.config.resolve import load_model
from tests import toys

CONFIGS = {
    'conditional': 'mmdet::conditional_detr/conditional-detr_r50_8xb2-50e_coco.py',
    'dab': 'mmdet::dab_detr/dab-detr_r50_8xb2-50e_coco.py',
    'deformable': 'mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco.py',
    'two-stage': 'mmdet::deformable_detr/deformable-detr-refine-twostage_r50_16xb2-50e_coco.py',
    'dino': 'mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py',
}
WIDE = ('conditional', 'two-stage')  # mmdet embeds their places in 256 channels, whatever the config says
WIDTHS = dict(embed_dims=32, num_feats=16, feedforward_channels=32, num_heads=4, out_channels=32)


@functools.cache
def _smaller(kind: str) -> dict[str, Any]:
    def shrunk(config: Any) -> dict[str, Any]:
        actual = {name: WIDTHS[name] for name in config if name in WIDTHS}
        inner = {name: shrunk(value) for name, value in config.items() if isinstance(value, dict)}
        return {**{name: value for name, value in inner.items() if value}, **actual}

    model = load_model(dict(cfg=CONFIGS[kind]), 'model').model.to_dict()
    model.pop('train_cfg', None)
    return shrunk(model)


def query_net(kind: str, width: int = 8, queries: int = 12, layers: int = 2, **overrides: Any) -> dict[str, Any]:
    """The option of a detector with queries, of 32 channels on a ResNet-10."""
    stages = (3,) if kind in ('conditional', 'dab') else (1, 2, 3)
    few = dict(num_layers=layers)
    option: dict[str, Any] = dict(
        cfg=CONFIGS[kind],
        backbone=dict(depth=10, base_channels=width, frozen_stages=-1, norm_eval=False, init_cfg=None),
        neck=dict(in_channels=[width * 2**stage for stage in stages]),
        bbox_head=dict(num_classes=toys.NUM_CLASSES - 1) | ({} if kind in WIDE else dict(embed_dims=32)),
        encoder=few,
        decoder=few,
        num_queries=queries,
    )
    smaller = {} if kind in WIDE else _smaller(kind)
    return toys.merged(toys.merged(smaller, option), overrides)


def query_model(kind: str, option: dict[str, Any] | None = None, **student: Any) -> Any:
    """A small detector that KD-DETR teaches from a wider random one."""
    distillers = dict(x=dict(type='KDDETR', general=5) | (option or {}))
    teacher = query_net(kind, 16, queries=10, layers=3, allow_random=True)
    return toys.model_config(query_net(kind, **student), teacher, distillers)


def gfl(**head: Any) -> dict[str, Any]:
    """A random teacher with towers of two convolutions."""
    return toys.det_net('gfl', allow_random=True, bbox_head=dict(dict(stacked_convs=2), **head))
