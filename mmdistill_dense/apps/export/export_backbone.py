"""Write a student's backbone to a file that ordinary configs can start from."""

from __future__ import annotations

from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmdistill_dense.apps.export.graphs import check_spared
from mmdistill_dense.utils.atomic import save_whole
from mmdistill_dense.utils.messages import some
from mmdistill_dense.weights.strict_load import load_strictly, plain_config, read_checkpoint, state_dict_of

_PREFIX = 'backbone.'


def export_backbone(config: Config, checkpoint: str | Path, out: str | Path) -> Path:
    """Write the weights of a student's backbone under bare names.

    Such a file loads by ``backbone=dict(init_cfg=dict(type='Pretrained', checkpoint=out))`` into the same kind of
    backbone of any mmseg or mmdet config. A training checkpoint needs ``prefix='backbone.'`` beside it; without that,
    mmengine loads nothing of it and only warns. For ``load_from`` export the whole student instead.
    """
    path = Path(out)
    if path.suffix != '.pth':
        raise ValueError(f'out={str(out)!r} must end in .pth.')
    check_spared(path, checkpoint)
    plain = plain_config(config)
    content = read_checkpoint(checkpoint)
    state = state_dict_of(content, checkpoint)
    backbone = {name.removeprefix(_PREFIX): value for name, value in state.items() if name.startswith(_PREFIX)}
    key = f'checkpoint={str(checkpoint)!r}'
    if not backbone:
        raise ValueError(f'{key} holds no entries {_PREFIX}*; it begins with {some(state)}.')
    init_default_scope(plain.get('default_scope', 'mmengine'))
    with torch.device('cpu'):
        load_strictly(MODELS.build(plain.model).backbone, backbone, None, key)
    meta = {name: value for name, value in content.get('meta', {}).items() if name in ('epoch', 'iter', 'seed')}
    save_whole({'meta': meta, 'state_dict': backbone}, path)
    return path
