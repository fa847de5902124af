"""The PCD configs: pre-training, the published recipe, networks that start from a pre-trained backbone."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmdistill_dense.config.resolve import load_model
from mmdistill_dense.registry import DATASETS, OPTIMIZERS
from mmdistill_dense.weights.ssl_layouts import LAYOUTS
from tests.every_config import CONFIGS, every, leaf, named, student

SHARED = Path(__file__).parents[3] / 'shared' / 'data'
DOWNSTREAM = sorted(path.stem.removesuffix('_pcd-init') for path in (CONFIGS / 'pcd').glob('*_pcd-init.py'))


def plain(value: Any) -> Any:
    return value.to_dict() if hasattr(value, 'to_dict') else value


# Pre-training


def test_every_pretraining_is_complete() -> None:
    found = {path for path in every() if path.parent.name == 'pcd' and re.search('_from_|pretrain', path.stem)}
    names = [path.stem for path in found if path.is_file() or not named()[path].variant]
    assert len(names) > 15 and sum('-r50_' in name for name in names) > 8
    for name in names:
        cfg = leaf(f'pcd/{name}')
        assert cfg.default_scope == 'mmseg', name
        assert not {'val_dataloader', 'val_cfg', 'val_evaluator', 'test_dataloader'} & set(cfg), name
        assert cfg.default_hooks.distill.type == 'mmdistill_dense.DistillHook', name
        assert not cfg.train_dataloader.persistent_workers, 'refused in epochs'
        assert cfg.auto_scale_lr.enable != ('_from_dinov' in name and '_folder' in name), 'the rate follows the batch'
        assert cfg.train_dataloader.drop_last is ('_folder' not in name), 'which may hold less than one batch'
        assert cfg.model.distillers == cfg.distillers, name
        own, teaches = cfg.model.student, cfg.model.teacher
        assert own.type == 'mmdistill_dense.BackboneStudent', name
        assert own.backbone.get('zero_init_residual') is (False if 'ResNet' in own.backbone.type else None), name
        assert own.data_preprocessor.bgr_to_rgb, 'PackViews hands out BGR'
        sides = [step.size for view in cfg.train_pipeline[1].views for step in view if 'size' in step]
        assert {(side, side) for side in sides} == {tuple(own.data_preprocessor['size'])}, name
        assert cfg.train_dataloader.dataset.pipeline == cfg.train_pipeline, name
        last = cfg.param_scheduler[-1]
        assert last.end == cfg.train_cfg.max_epochs == last.begin + last.T_max, name
        options = dict(plain(cfg.optim_wrapper.optimizer), params=[nn.Parameter(torch.zeros(1))])
        assert type(OPTIMIZERS.build(options)).__name__ == options['type'].split('.')[-1]
        assert options['type'] == 'AdamW' or not re.search('small|toy', name), name
        if '-r50_' in name:
            assert teaches.layout in LAYOUTS and teaches.layout in name
            assert Path(teaches.checkpoint).name == f'{teaches.layout}_r50.pth'
            assert teaches.backbone == dict(type='mmseg.ResNet', depth=50, out_indices=(3,), style='pytorch')


def test_constants_are_those_of_the_released_code() -> None:
    cfg = leaf('pcd/r18_from_mocov3-r50_imagenet')
    pcd = cfg.model.distillers.pcd
    assert (pcd.temperature, pcd.queue_size, pcd.queue_init, pcd.view_pairing) == (0.2, 65536, 'random', 'cross')
    taps = (pcd.student_tap, pcd.teacher_tap, pcd.head, pcd.attention)
    assert taps == ('backbone[-1]', 'head', dict(type='mlp2'), dict(num_heads=8))
    lars = dict(type='mmdistill_dense.LARS', lr=4.0, momentum=0.9, weight_decay=1e-5, eta=1e-3)
    assert cfg.optim_wrapper.optimizer == lars
    assert cfg.auto_scale_lr == dict(enable=True, base_batch_size=1024)
    assert (cfg.train_cfg.max_epochs, cfg.train_dataloader.batch_size * 8) == (100, 1024)
    both = dict(by_epoch=True, convert_to_iter_based=True)
    rise = dict(type='LinearLR', start_factor=1e-4, begin=0, end=10)
    fall = dict(type='CosineAnnealingLR', T_max=90, eta_min=0, begin=10, end=100)
    assert plain(cfg)['param_scheduler'] == [both | rise, both | fall]
    pixels = cfg.model.student.data_preprocessor
    assert (pixels['mean'], pixels['std']) == ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375])
    without = leaf('pcd/r18_from_mocov3-r50_imagenet_without-attention').model.distillers.pcd
    assert without == {**pcd, 'attention': None}
    assert leaf('pcd/r18_from_barlowtwins-r50_imagenet').model.distillers.pcd.head == dict(type='mlp2', layers=3)

    own, imagenet = (
        leaf(f'pcd/r18_from_mocov3-r50_{data}').train_dataloader.dataset for data in ('folder', 'imagenet')
    )
    assert (own.data_root, own.data_prefix, own.check) == ('data/unlabeled', '', True)
    assert (imagenet.data_root, imagenet.data_prefix, imagenet.check) == ('data/imagenet', 'train', False)
    load, views, pack = cfg.train_pipeline
    assert (load.type, pack.type) == ('LoadImageFromFile', 'mmdistill_dense.PackViews')
    first, second = ([(step.type.split('.')[-1], step.get('prob')) for step in view] for view in views.views)
    same = [('RandomResizedCrop', None), ('RandomFlip', 0.5), ('ColorJitter', 0.8), ('RandomGrayscale', 0.2)]
    assert first == [*same, ('GaussianBlur', 1.0)]
    assert second == [*same, ('GaussianBlur', 0.1), ('Solarize', 0.2)]
    crop, _, jitter = views.views[1][:3]
    assert (crop['size'], crop.scale) == (224, (0.08, 1.0))
    assert (jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue) == (0.4, 0.4, 0.2, 0.1)


# Data


def test_the_small_one_sees_every_training_image_of_the_small_sets(monkeypatch: pytest.MonkeyPatch) -> None:
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


# Networks at full width


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


# Fine-tuning


def backbone_of(cfg: Config) -> Any:
    return (cfg.model.get('student') or cfg.model).backbone


@pytest.mark.parametrize('name', DOWNSTREAM)
def test_controls_differ_in_where_the_backbone_starts(name: str) -> None:
    """From what the pre-training wrote, from random numbers, or from published weights."""
    kinds = ['pcd', 'random'] + ['supervised'] * ('camvid' not in name)
    runs = {kind: leaf(f'pcd/{name}_{kind}-init') for kind in kinds}
    starts = {kind: plain(backbone_of(cfg).init_cfg) for kind, cfg in runs.items()}
    if 'c4' in name:  # whose fourth stage is in the head
        for kind, cfg in runs.items():
            assert plain(student(cfg).roi_head.shared_head.init_cfg) == starts[kind]
            cfg.model.student.roi_head.shared_head.pop('init_cfg')
    file = Path(starts['pcd']['checkpoint'])
    pretraining = leaf(f'pcd/{file.parent.name}')
    assert str(file) == f'{pretraining.work_dir}/epoch_{pretraining.train_cfg.max_epochs}.pth'
    assert starts['pcd']['prefix'] == 'backbone.' and starts['random'] is None
    if 'supervised' in starts:
        depth = '34' if 'r34' in name else '18'
        assert starts['supervised'] == dict(type='Pretrained', checkpoint=f'torchvision://resnet{depth}')
    for kind, cfg in runs.items():
        backbone_of(cfg).pop('init_cfg')
        assert cfg.pop('work_dir') == f'work_dirs/pcd/{name}_{kind}-init'
        assert {**cfg._cfg_dict} == {**runs['pcd']._cfg_dict}, kind


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
    found = {name: value for part in parts for name, value in part.state_dict().items()}
    assert set(found) == set(expected)
    assert not [name for name in expected if not torch.equal(found[name], expected[name])]
    for part in parts:
        assert not part.norm_eval and all(parameter.requires_grad for parameter in part.parameters())
    if network == 'mask_rcnn_r18_fpn_pcd':
        assert sum(parameter.numel() for parameter in built.parameters()) == 31_329_584, 'of the specification'


def test_c4_starts_its_last_stage_as_its_backbone_or_as_it_is_told() -> None:
    option = Config.fromfile(CONFIGS / '_base_/models/mask_rcnn_r18_c4_pcd.py').model.student
    option.backbone.init_cfg = None
    assert load_model(option, 'student').model.roi_head.shared_head.init_cfg is None
    option.roi_head.shared_head.init_cfg.checkpoint = 'mine.pth'
    assert load_model(option, 'student').model.roi_head.shared_head.init_cfg.checkpoint == 'mine.pth'
