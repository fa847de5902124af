"""The PCD configs: pre-training, the published recipe, networks that start from a pre-trained backbone."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, PARAM_SCHEDULERS, init_default_scope
from torch import nn

from mmdistill_dense.config.resolve import load_model
from mmdistill_dense.engine import LARS
from mmdistill_dense.registry import DATASETS, OPTIMIZERS
from mmdistill_dense.weights.ssl_layouts import LAYOUTS
from tests.every_config import every, named, place, read

ROOT = Path(__file__).parents[2] / 'configs'
SHARED = Path(__file__).parents[3] / 'shared'
TEACHERS = ('mocov3', 'mocov2', 'dino', 'swav', 'simsiam', 'barlowtwins', 'byol')
FROM_R50 = [f'r18_from_{teacher}-r50_imagenet' for teacher in TEACHERS] + [
    'r34_from_mocov3-r50_imagenet', 'r18_from_mocov3-r50_folder', 'r18_from_mocov3-r50_imagenet_without-attention',
    'mobilenetv3-large_from_mocov3-r50_imagenet',
]  # fmt: skip
SMALL = ['r18w16_from_mobilenetv2_small', 'mobilenetv2w05_from_mobilenetv2_small', 'r18w16_from_dinov2-vits14_small']
FROM_VIT = ['r18_from_dinov2-vits14_folder', 'r18_from_dinov2-vits14_folder_lars', 'r18_from_dinov3-vits16_folder',
            'vit-tiny16_from_dinov3-vits16_folder',
            'r18_from_mocov3-vitb16_imagenet']  # fmt: skip
PRETRAINING = [*FROM_R50, *FROM_VIT, *SMALL, 'toy_pretrain']
DOWNSTREAM = sorted(path.stem.removesuffix('_pcd-init') for path in (ROOT / 'pcd').glob('*_pcd-init.py'))


def leaf(name: str) -> Config:
    return read(place(f'pcd/{name}'))


def plain(value: Any) -> Any:
    return value.to_dict() if hasattr(value, 'to_dict') else value


# Pre-training


def test_every_pretraining_is_listed_here() -> None:
    found = {path for path in every() if path.parent.name == 'pcd' and re.search('_from_|pretrain', path.stem)}
    variants = {path for path in found if not path.is_file() and named()[path].variant}
    assert sorted(path.stem for path in found - variants) == sorted(PRETRAINING)


@pytest.mark.parametrize('name', PRETRAINING)
def test_pretraining_is_complete(name: str) -> None:
    cfg = leaf(name)
    assert {'model', 'train_dataloader', 'optim_wrapper', 'param_scheduler', 'train_cfg', 'default_scope'} <= set(cfg)
    assert not {'val_dataloader', 'val_cfg', 'val_evaluator', 'test_dataloader'} & set(cfg)
    assert cfg.default_hooks.distill.type == 'mmdistill_dense.DistillHook'
    assert not cfg.train_dataloader.persistent_workers  # refused in epochs
    assert cfg.train_dataloader.drop_last is ('_folder' not in name)  # which may hold less than one batch
    assert cfg.model.distillers == cfg.distillers
    student = cfg.model.student
    assert student.type == 'mmdistill_dense.BackboneStudent'
    assert student.backbone.get('zero_init_residual') is (False if 'ResNet' in student.backbone.type else None)
    assert student.data_preprocessor.bgr_to_rgb  # PackViews hands out BGR
    sides = [step.size for view in cfg.train_pipeline[1].views for step in view if 'size' in step]
    assert {(side, side) for side in sides} == {tuple(student.data_preprocessor['size'])}
    assert cfg.train_dataloader.dataset.pipeline == cfg.train_pipeline


@pytest.mark.parametrize('name', FROM_R50)
def test_teachers_are_of_known_layouts_and_each_has_its_file(name: str) -> None:
    teacher = leaf(name).model.teacher
    assert teacher.layout in LAYOUTS
    assert teacher.layout in name
    assert Path(teacher.checkpoint).name == f'{teacher.layout}_r50.pth'
    assert teacher.backbone == dict(type='mmseg.ResNet', depth=50, out_indices=(3,), style='pytorch')


def test_constants_are_those_of_the_released_code() -> None:
    cfg = leaf('r18_from_mocov3-r50_imagenet')
    pcd = cfg.model.distillers.pcd
    assert (pcd.temperature, pcd.queue_size, pcd.queue_init, pcd.view_pairing) == (0.2, 65536, 'random', 'cross')
    assert (pcd.student_tap, pcd.teacher_tap, pcd.head, pcd.attention) == (
        'backbone[-1]', 'head', dict(type='mlp2'), dict(num_heads=8),
    )  # fmt: skip
    assert cfg.optim_wrapper.optimizer == dict(
        type='mmdistill_dense.LARS', lr=4.0, momentum=0.9, weight_decay=1e-5, eta=1e-3
    )
    assert cfg.auto_scale_lr == dict(enable=True, base_batch_size=1024)
    assert cfg.train_cfg.max_epochs == 100
    assert cfg.train_dataloader.batch_size * 8 == 1024
    normalisation = cfg.model.student.data_preprocessor
    assert normalisation['mean'] == [123.675, 116.28, 103.53]
    assert normalisation['std'] == [58.395, 57.12, 57.375]
    assert leaf('r18_from_mocov3-r50_imagenet_without-attention').model.distillers.pcd == {**pcd, 'attention': None}
    assert leaf('r18_from_barlowtwins-r50_imagenet').model.distillers.pcd.head == dict(type='mlp2', layers=3)


def test_views_are_the_recipes() -> None:
    load, views, pack = leaf('r18_from_mocov3-r50_imagenet').train_pipeline
    assert (load.type, pack.type) == ('LoadImageFromFile', 'mmdistill_dense.PackViews')
    first, second = ([(step.type.split('.')[-1], step.get('prob')) for step in view] for view in views.views)
    same = [('RandomResizedCrop', None), ('RandomFlip', 0.5), ('ColorJitter', 0.8), ('RandomGrayscale', 0.2)]
    assert first == [*same, ('GaussianBlur', 1.0)]
    assert second == [*same, ('GaussianBlur', 0.1), ('Solarize', 0.2)]
    crop, _, jitter = views.views[1][:3]
    assert (crop['size'], crop.scale) == (224, (0.08, 1.0))
    assert (jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue) == (0.4, 0.4, 0.2, 0.1)


# The schedule


def rates(schedulers: list[dict], optimizer: dict, per_epoch: int, total: int) -> np.ndarray:
    """The learning rate that each iteration uses, by mmengine's own schedulers."""
    params = [nn.Parameter(torch.zeros(2, 2))]
    built = OPTIMIZERS.build(dict(optimizer, params=params))
    options = [dict(option, optimizer=built, epoch_length=per_epoch) for option in schedulers]
    steps = [
        PARAM_SCHEDULERS.get(option.pop('type')).build_iter_from_epoch(**option)
        for option in options
        if option.pop('convert_to_iter_based')
    ]
    values = []
    for _ in range(total):
        values.append(built.param_groups[0]['lr'])
        params[0].grad = torch.zeros(2, 2)
        built.step()
        for step in steps:
            step.step()
    return np.array(values)


@pytest.mark.parametrize('per_epoch', [27, pytest.param(1251, marks=pytest.mark.soak, id='imagenet')])
def test_schedule_of_a_hundred_epochs(per_epoch: int) -> None:
    """On ImageNet lr(i) = 4 (1e-4 + (1 - 1e-4) i / 12509) for i < 12510, then 2 (1 + cos(pi (i - 12510) / 112590))."""
    cfg = leaf('r18_from_mocov3-r50_imagenet')
    epochs = 100 if per_epoch < 100 else 12  # a hundred of ImageNet's take 20 seconds
    found = rates(plain(cfg)['param_scheduler'], plain(cfg.optim_wrapper.optimizer), per_epoch, epochs * per_epoch)
    i, start = np.arange(epochs * per_epoch), 10 * per_epoch
    warm = 4 * (1e-4 + (1 - 1e-4) * i / (start - 1))
    expected = np.where(i < start, warm, 2 * (1 + np.cos(np.pi * (i - start) / (90 * per_epoch))))
    assert np.abs(found - expected).max() < 1e-9


@pytest.mark.parametrize(('name', 'kind'), [
    ('r18_from_mocov3-r50_imagenet', LARS), *((small, torch.optim.AdamW) for small in [*SMALL, 'toy_pretrain']),
])  # fmt: skip
def test_optimizer_and_schedule_fit_the_epochs(name: str, kind: type) -> None:
    cfg = leaf(name)
    options = plain(cfg.optim_wrapper.optimizer)
    assert isinstance(OPTIMIZERS.build(dict(options, params=[nn.Parameter(torch.zeros(1))])), kind)
    last = cfg.param_scheduler[-1]
    assert last.end == cfg.train_cfg.max_epochs == last.begin + last.T_max


# Data


def test_the_small_one_sees_every_training_image_of_the_small_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    if not (SHARED / 'data').is_dir():
        pytest.skip('the real images are not beside this checkout (../shared/data)')
    monkeypatch.setenv('MMDISTILL_DATA', str(SHARED / 'data'))
    init_default_scope('mmseg')
    cfg = leaf('r18w16_from_mobilenetv2_small')
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    assert len(dataset) == 367 + 128 + 205 + 267
    for index in (0, 400, 500, 966):
        item = dataset[index]
        assert [tuple(view.shape) for view in item['inputs']] == [(3, 128, 128)] * 2
    assert not any(part in path for path in paths(dataset) for part in ('/val', '/test'))


def paths(dataset: Any) -> list[str]:
    return [dataset.get_data_info(index)['img_path'] for index in range(len(dataset))]


def test_a_folder_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('MMDISTILL_DATA', '/somewhere')
    dataset = leaf('r18_from_mocov3-r50_folder').train_dataloader.dataset
    assert (dataset.data_root, dataset.data_prefix, dataset.check) == ('/somewhere/unlabeled', '', True)
    imagenet = leaf('r18_from_mocov3-r50_imagenet').train_dataloader.dataset
    assert (imagenet.data_root, imagenet.data_prefix, imagenet.check) == ('/somewhere/imagenet', 'train', False)


# Networks at full width


def test_the_published_student_has_the_papers_parts() -> None:
    cfg = leaf('r18_from_mocov3-r50_imagenet')
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    pcd = model.distillers['pcd']
    count = {name: sum(p.numel() for p in part.parameters()) for name, part in pcd.named_children()}
    assert count['projector'] + count['predictor'] == 5_259_264
    assert count['attention'] == 1_052_160
    assert sum(p.numel() for p in model.backbone.parameters()) == 11_176_512
    assert set(model.state_dict()) == {f'backbone.{name}' for name in model.backbone.state_dict()}


@pytest.mark.soak
@pytest.mark.parametrize('name', FROM_R50)
def test_pretraining_builds(name: str) -> None:
    cfg = leaf(name)
    init_default_scope(cfg.default_scope)
    pcd = MODELS.build(cfg.model).distillers['pcd']
    size = sum(p.numel() for part in (pcd.projector, pcd.predictor) for p in part.parameters())
    known = dict(mocov3=5_259_264, byol=5_267_456, swav=1_847_552, barlowtwins=339_804_160)  # with 512 channels
    if 'mobilenetv3-large' in name:
        known['mocov3'] += (960 - 512) * 4096  # channels, width of the projector
    assert size == known.get(cfg.model.teacher.layout, size)


@pytest.mark.soak
@pytest.mark.parametrize('name', ['deeplabv3_r101_to_r18_cityscapes', 'retinanet_r101_to_r50_coco', 'toy_seg'])
def test_beside_labels_builds(name: str) -> None:
    cfg = leaf(name)
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    without = MODELS.build({**cfg.model, 'distillers': {}})
    assert set(model.distillers) == set(cfg.model.distillers)
    assert set(model.state_dict()) == set(without.state_dict())


# Fine-tuning


def backbone_of(cfg: Config) -> Any:
    return (cfg.model.get('student') or cfg.model).backbone


@pytest.mark.parametrize('name', DOWNSTREAM)
def test_controls_differ_in_where_the_backbone_starts(name: str) -> None:
    kinds = ['pcd', 'random'] + ['supervised'] * ('camvid' not in name)
    runs = {kind: leaf(f'{name}_{kind}-init') for kind in kinds}
    starts = {kind: plain(backbone_of(cfg).init_cfg) for kind, cfg in runs.items()}
    if 'c4' in name:  # whose fourth stage is in the head
        heads = {
            kind: load_model(cfg.model.student, 'student').model.roi_head.shared_head for kind, cfg in runs.items()
        }
        assert {kind: plain(head.init_cfg) for kind, head in heads.items()} == starts
        for cfg in runs.values():
            cfg.model.student.roi_head.shared_head.pop('init_cfg')
    for cfg in runs.values():
        backbone_of(cfg).pop('init_cfg')
    assert starts['pcd']['prefix'] == 'backbone.'
    assert starts['random'] is None
    if 'supervised' in starts:
        depth = '34' if 'r34' in name else '18'
        assert starts['supervised'] == dict(type='Pretrained', checkpoint=f'torchvision://resnet{depth}')
    for kind, cfg in runs.items():
        assert cfg.pop('work_dir') == f'work_dirs/pcd/{name}_{kind}-init'
    for cfg in runs.values():
        assert cfg._cfg_dict == runs['pcd']._cfg_dict


@pytest.mark.parametrize('name', DOWNSTREAM)
def test_fine_tuning_reads_what_pretraining_wrote(name: str) -> None:
    file = Path(backbone_of(leaf(f'{name}_pcd-init')).init_cfg.checkpoint)
    pretraining = leaf(file.parent.name)
    assert str(file) == f'{pretraining.work_dir}/epoch_{pretraining.train_cfg.max_epochs}.pth'


def pretrained(recipe: str, folder: Path) -> tuple[dict[str, torch.Tensor], str]:
    """A backbone of random values, and the file that a pre-training of it wrote."""
    student = load_model(Config.fromfile(ROOT / f'_base_/recipes/{recipe}.py').model.student, 'student').model
    init_default_scope('mmseg')
    torch.manual_seed(3)
    state = MODELS.build(student).backbone.state_dict()
    for tensor in state.values():
        if tensor.is_floating_point():
            tensor.uniform_(0.1, 0.9)
    torch.save({'state_dict': {f'backbone.{name}': value for name, value in state.items()}}, folder / 'epoch.pth')
    return state, str(folder / 'epoch.pth')


def same(loaded: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert set(loaded) == set(expected)
    assert not [name for name in expected if not torch.equal(loaded[name], expected[name])]


@pytest.mark.parametrize(('network', 'pretraining', 'scope'), [
    pytest.param('deeplabv3_r18b_pcd_voc', 'r18_from_mocov3-r50_imagenet', 'mmseg', marks=pytest.mark.soak),
    pytest.param('deeplabv3_r18b_pcd', 'r34_from_mocov3-r50_imagenet', 'mmseg', marks=pytest.mark.soak),
    ('deeplabv3plus_r18w16_camvid_pcd', 'r18w16_from_mobilenetv2_small', 'mmseg'),
    ('deeplabv3plus_mobilenetv2w05_camvid', 'mobilenetv2w05_from_mobilenetv2_small', 'mmseg'),
    pytest.param('mask_rcnn_r18_fpn_pcd', 'r18_from_mocov3-r50_imagenet', 'mmdet', marks=pytest.mark.soak),
    pytest.param('mask_rcnn_r34_fpn_pcd', 'r34_from_mocov3-r50_imagenet', 'mmdet', marks=pytest.mark.soak),
    ('retinanet_r18_fpn_pcd', 'r18_from_mocov3-r50_imagenet', 'mmdet'),
])  # fmt: skip
def test_a_pretrained_backbone_arrives_whole(network: str, pretraining: str, scope: str, tmp_path: Path) -> None:
    """Student of pre-training → checkpoint → backbone of the downstream network, every tensor equal."""
    expected, file = pretrained(pretraining, tmp_path)
    model = Config.fromfile(ROOT / f'_base_/models/{network}.py').model
    start = (model.get('student') or model).backbone
    start.init_cfg = start.init_cfg or dict(type='Pretrained', prefix='backbone.')  # as a suite gives it
    start.init_cfg.checkpoint = file
    if 'r34' in pretraining and 'r34' not in network:  # as docs/pretraining.md says
        start.depth = 34
    init_default_scope(scope)
    built = MODELS.build(model)
    built.init_weights()
    same(built.backbone.state_dict(), expected)
    assert not built.backbone.norm_eval
    trained = {name for name, parameter in built.backbone.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, _ in built.backbone.named_parameters()}


def test_a_pretrained_backbone_arrives_in_both_parts_of_c4(tmp_path: Path) -> None:
    model = Config.fromfile(ROOT / '_base_/models/mask_rcnn_r18_c4_pcd.py').model
    expected, file = pretrained('r18_from_mocov3-r50_imagenet', tmp_path)
    model.student.backbone.init_cfg.checkpoint = file
    init_default_scope('mmdet')
    built = MODELS.build(model)
    built.init_weights()
    same({**built.backbone.state_dict(), **built.roi_head.shared_head.state_dict()}, expected)
    assert all(p.requires_grad for p in built.parameters())
    assert not built.backbone.norm_eval and not built.roi_head.shared_head.norm_eval


def test_c4_starts_its_last_stage_as_its_backbone_or_as_it_is_told() -> None:
    student = Config.fromfile(ROOT / '_base_/models/mask_rcnn_r18_c4_pcd.py').model.student
    student.backbone.init_cfg = None
    assert load_model(student, 'student').model.roi_head.shared_head.init_cfg is None
    student.roi_head.shared_head.init_cfg.checkpoint = 'mine.pth'
    assert load_model(student, 'student').model.roi_head.shared_head.init_cfg.checkpoint == 'mine.pth'


def test_mask_rcnn_has_the_size_of_the_specification() -> None:
    model = Config.fromfile(ROOT / '_base_/models/mask_rcnn_r18_fpn_pcd.py').model
    init_default_scope('mmdet')
    assert sum(parameter.numel() for parameter in MODELS.build(model).parameters()) == 31_329_584


@pytest.mark.parametrize(('name', 'taps', 'keys', 'weight'), [
    ('deeplabv3_r101_to_r18_cityscapes', [f'backbone[{stage}]' for stage in (1, 2, 3)], 64, 3.0),
    ('retinanet_r101_to_r50_coco', 'neck', 16, 1.0),
])  # fmt: skip
def test_plugin_leaves(name: str, taps: str | list[str], keys: int, weight: float) -> None:
    cfg = leaf(name)
    pcd = cfg.model.distillers.pcd
    assert (pcd.student_tap, pcd.enqueue, pcd.keys_per_image) == (taps, 'pixels', keys)
    assert (pcd.queue_size, pcd.queue_init, pcd.loss_weight) == (4096, 'empty', weight)
    assert pcd.schedule == dict(ramp_down=(0, 1.0))
    assert cfg.model.teacher.checkpoint == 'auto'
    assert cfg.work_dir == f'work_dirs/pcd/{name}'
