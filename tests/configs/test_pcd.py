"""Pre-training with PCD: networks that start from a backbone that it trained."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmdistill_dense.config.resolve import load_model
from tests.every_config import CONFIGS, student


@pytest.mark.sample(2)
@pytest.mark.parametrize(('network', 'pretraining', 'scope'), [
    pytest.param('deeplabv3_r18b_pcd', 'r34_from_mocov3-r50_imagenet', 'mmseg', marks=pytest.mark.soak),
    ('mask_rcnn_r18_c4_pcd', 'r18_from_mocov3-r50_imagenet', 'mmdet'),
    ('deeplabv3plus_r18w16_camvid_pcd', 'r18w16_from_mobilenetv2_small', 'mmseg'),
    ('deeplabv3plus_mobilenetv2w05_camvid', 'mobilenetv2w05_from_mobilenetv2_small', 'mmseg'),
    ('retinanet_r18_fpn_pcd', 'r18_from_mocov3-r50_imagenet', 'mmdet'),
])  # fmt: skip
def test_a_pretrained_backbone_arrives_whole(network: str, pretraining: str, scope: str, tmp_path: Path) -> None:
    """Student of pre-training → checkpoint → backbone of the downstream network, every tensor equal."""
    init_default_scope('mmseg')
    torch.manual_seed(3)
    recipe = Config.fromfile(CONFIGS / f'_base_/recipes/{pretraining}.py')
    expected = MODELS.build(student(recipe)).backbone.state_dict()
    for tensor in expected.values():
        if tensor.is_floating_point():
            tensor.uniform_(0.1, 0.9)
    file = tmp_path / 'epoch.pth'
    torch.save({'state_dict': {f'backbone.{name}': value for name, value in expected.items()}}, file)
    model = Config.fromfile(CONFIGS / f'_base_/models/{network}.py').model
    start = (model.get('student') or model).backbone
    start.init_cfg = start.init_cfg or dict(type='Pretrained', prefix='backbone.')  # as a suite gives it
    start.init_cfg.checkpoint = str(file)
    if 'r34' in pretraining and 'r34' not in network:  # as docs/pretraining.md says
        start.depth = 34
    init_default_scope(scope)
    built = MODELS.build(model)
    built.init_weights()
    parts = [built.backbone, *([built.roi_head.shared_head] if 'c4' in network else [])]  # its fourth stage
    actual = {name: value for part in parts for name, value in part.state_dict().items()}
    assert set(actual) == set(expected)
    assert not [name for name in expected if not torch.equal(actual[name], expected[name])]
    for part in parts:
        assert not part.norm_eval and all(parameter.requires_grad for parameter in part.parameters())


def test_c4_starts_its_last_stage_as_its_backbone() -> None:
    option = Config.fromfile(CONFIGS / '_base_/models/mask_rcnn_r18_c4_pcd.py').model.student
    option.backbone.init_cfg = None
    assert load_model(option, 'student').model.roi_head.shared_head.init_cfg is None
    option.roi_head.shared_head.init_cfg.checkpoint = 'mine.pth'
    assert load_model(option, 'student').model.roi_head.shared_head.init_cfg.checkpoint == 'mine.pth'
