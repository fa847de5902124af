"""Pre-training with PCD: its pictures, its networks, and networks that start from a backbone that it trained."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmdistill_dense.config.resolve import load_model
from mmdistill_dense.registry import DATASETS
from tests.every_config import CONFIGS, leaf, student

SHARED = Path(__file__).parents[3] / 'shared' / 'data'


def test_the_small_pretraining_sees_every_training_image(monkeypatch: pytest.MonkeyPatch) -> None:
    if not SHARED.is_dir():
        pytest.skip('the real images are not beside this checkout (../shared/data)')
    monkeypatch.setenv('MMDISTILL_DATA', str(SHARED))
    init_default_scope('mmseg')
    dataset = DATASETS.build(leaf('pcd/r18w16_from_mobilenetv2_small').train_dataloader.dataset)
    assert len(dataset) == 367 + 128 + 205 + 267
    for index in (0, 400, 500, 966):
        assert [tuple(view.shape) for view in dataset[index]['inputs']] == [(3, 128, 128)] * 2
    paths = [dataset.get_data_info(index)['img_path'] for index in range(len(dataset))]
    assert not any(part in path for path in paths for part in ('/val', '/test'))


@pytest.mark.parametrize(('name', 'backbone', 'heads'), [
    ('r18', 11_176_512, 5_259_264),
    pytest.param('mobilenetv3-large', 2_971_952, 5_259_264 + (960 - 512) * 4096, marks=pytest.mark.soak),
])  # fmt: skip
def test_a_pretraining_has_the_papers_parts(name: str, backbone: int, heads: int) -> None:
    """By numbers of parameters; those of the heads of other teachers are in tests/distillers/test_pcd.py."""
    cfg = leaf(f'pcd/{name}_from_mocov3-r50_imagenet')
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    parts = dict(model.distillers['pcd'].named_children(), backbone=model.backbone)
    count = {key: sum(p.numel() for p in part.parameters()) for key, part in parts.items()}
    assert (count['backbone'], count['projector'] + count['predictor']) == (backbone, heads)
    assert name != 'r18' or count['attention'] == 1_052_160
    assert set(model.state_dict()) == {f'backbone.{key}' for key in model.backbone.state_dict()}


@pytest.mark.parametrize(('network', 'pretraining', 'scope'), [
    pytest.param('deeplabv3_r18b_pcd', 'r34_from_mocov3-r50_imagenet', 'mmseg', marks=pytest.mark.soak),
    pytest.param('mask_rcnn_r34_fpn_pcd', 'r34_from_mocov3-r50_imagenet', 'mmdet', marks=pytest.mark.soak),
    pytest.param('mask_rcnn_r18_fpn_pcd', 'r18_from_mocov3-r50_imagenet', 'mmdet', marks=pytest.mark.soak),
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
    if network == 'mask_rcnn_r18_fpn_pcd':
        assert sum(parameter.numel() for parameter in built.parameters()) == 31_329_584, 'of the specification'


def test_c4_starts_its_last_stage_as_its_backbone() -> None:
    option = Config.fromfile(CONFIGS / '_base_/models/mask_rcnn_r18_c4_pcd.py').model.student
    option.backbone.init_cfg = None
    assert load_model(option, 'student').model.roi_head.shared_head.init_cfg is None
    option.roi_head.shared_head.init_cfg.checkpoint = 'mine.pth'
    assert load_model(option, 'student').model.roi_head.shared_head.init_cfg.checkpoint == 'mine.pth'
