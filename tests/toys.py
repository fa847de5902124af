"""Small builders shared by the tests: real zoo networks at tiny width, generated data, files, runs of CPU seconds."""

import copy
import functools
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmdet.models.backbones import resnet as mmdet_resnet
from mmengine.config import Config, ConfigDict
from mmengine.dataset import BaseDataset
from mmengine.registry import DefaultScope, init_default_scope
from mmengine.runner import Runner
from mmengine.structures import InstanceData, PixelData
from mmseg.models.backbones import resnet as mmseg_resnet
from torch import Tensor, nn

from mmdistill_dense.config.resolve import load_model
from mmdistill_dense.datasets.shapes import CLASSES, paint
from mmdistill_dense.distillers.feature import FeatureDistiller, Level
from mmdistill_dense.losses import to_device
from mmdistill_dense.networks.building import build_network
from mmdistill_dense.networks.taps import Tap
from mmdistill_dense.networks.teacher import FrozenTeacher
from mmdistill_dense.networks.trace import TeacherOption, trace_pair
from mmdistill_dense.registry import DATASETS, DISTILLERS, MODELS, TRANSFORMS
from mmdistill_dense.utils.reproducible import SeededBatches
from tests import quick  # noqa: F401

SIDE = 64
NUM_CLASSES = len(CLASSES)
BN = dict(type='BN', requires_grad=True)
SEG = {kind: f'mmseg::{kind}/{kind}_r18-d8_4xb2-80k_cityscapes-512x1024.py' for kind in ('deeplabv3', 'pspnet', 'fcn')}
DET = {
    'retinanet': 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py',
    'faster_rcnn': 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py',
    'dynamic_rcnn': 'mmdet::dynamic_rcnn/dynamic-rcnn_r50_fpn_1x_coco.py',
    'fcos': 'mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py',
    'reppoints': 'mmdet::reppoints/reppoints-moment_r50_fpn-gn_head-gn_1x_coco.py',
    'gfl': 'mmdet::gfl/gfl_r50_fpn_1x_coco.py',
    'atss': 'mmdet::atss/atss_r50_fpn_1x_coco.py',
    'mask_rcnn': 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py',
    'cascade_mask_rcnn': 'mmdet::cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py',
}
for _resnet in (mmseg_resnet, mmdet_resnet):  # a block a stage, to be quick
    _resnet.ResNet.arch_settings[10] = (_resnet.BasicBlock, (1, 1, 1, 1))
_FILES = tempfile.TemporaryDirectory(prefix='mmdistill_dense_tests_')


def fresh_dir() -> Path:
    """A new folder that goes when the tests end."""
    return Path(tempfile.mkdtemp(dir=_FILES.name))


# Networks


def seg_net(kind: str = 'deeplabv3', width: int = 8, dropout: float = 0.0, **overrides: Any) -> dict:
    """The option of a ResNet-10 segmentation network from a real mmseg config, ``width`` channels wide at the stem."""

    def head(stage: int, channels: int) -> dict:
        options = dict(num_classes=NUM_CLASSES, norm_cfg=BN, dropout_ratio=dropout)
        return dict(in_channels=width * 2**stage, channels=channels, **options)

    option = dict(
        cfg=SEG[kind],
        pretrained=None,
        data_preprocessor=dict(size=(SIDE, SIDE)),
        backbone=dict(depth=10, base_channels=width, stem_channels=width, norm_cfg=BN),
        decode_head=head(3, 2 * width),
        auxiliary_head=head(2, width),
    )
    return merged(option, overrides)


def det_net(kind: str = 'retinanet', width: int = 8, channels: int | None = None, **overrides: Any) -> dict:
    """The option of a ResNet-10 detector from a real mmdet config; neck and heads have ``channels``, or 2 x width."""
    channels = 2 * width if channels is None else channels
    option = dict(
        cfg=DET[kind],
        backbone=dict(depth=10, base_channels=width, frozen_stages=-1, norm_eval=False, init_cfg=None),
        neck=dict(in_channels=[width * 2**stage for stage in range(4)], out_channels=channels),
    )
    heads = _roi_heads(kind, channels) if 'rcnn' in kind else _dense_head(kind, channels)
    return merged(merged(option, heads), overrides)


def _dense_head(kind: str, channels: int) -> dict:
    head = dict(num_classes=NUM_CLASSES - 1, in_channels=channels, feat_channels=channels, stacked_convs=1)
    groups = dict(norm_cfg=dict(type='GN', num_groups=4))
    if kind == 'retinanet':
        return dict(bbox_head=head)
    if kind in ('gfl', 'atss'):
        return dict(bbox_head=dict(head, **groups))
    if kind == 'fcos':  # its published input is not scaled: too large for random weights
        return dict(bbox_head=dict(head, **groups), data_preprocessor=dict(std=[58.0, 57.0, 57.0]))
    return dict(bbox_head=dict(head, **groups, point_feat_channels=channels), neck=groups)


def _roi_heads(kind: str, channels: int) -> dict:
    boxes: dict[str, Any] = dict(in_channels=channels, fc_out_channels=2 * channels, num_classes=NUM_CLASSES - 1)
    roi = dict(bbox_roi_extractor=dict(out_channels=channels), bbox_head=boxes)
    if 'mask' in kind:
        mask = dict(in_channels=channels, conv_out_channels=channels, num_convs=1, num_classes=NUM_CLASSES - 1)
        roi.update(
            bbox_head={str(stage): boxes for stage in range(3)} if 'cascade' in kind else boxes,
            mask_roi_extractor=dict(out_channels=channels),
            mask_head=mask,
        )
    # a cascade's anchors must lie in the picture, where those of the coarse levels do not fit
    anchors = dict(rpn=dict(allowed_border=-1))
    return dict(rpn_head=dict(in_channels=channels, feat_channels=channels), roi_head=roi, train_cfg=anchors)


def merged(option: dict, overrides: Mapping[str, Any]) -> dict:
    option = dict(option)
    for name, value in overrides.items():
        nested = isinstance(value, Mapping) and isinstance(option.get(name), Mapping)
        option[name] = merged(option[name], value) if nested else value
    return option


def build_plain(option: Mapping[str, Any], seed: int = 0) -> nn.Module:
    """The vanilla network of an option, initialised under a seed."""
    config = load_model(option, 'model')
    init_default_scope(config.scope or 'mmseg')
    torch.manual_seed(seed)
    network = build_network(config)
    network.init_weights()
    return network


def model_config(
    student: Mapping[str, Any] | None = None,
    teacher: Mapping[str, Any] | None = None,
    distillers: Mapping[str, Any] | None = None,
    **student_keys: Any,
) -> dict:
    """A ``DistillModel`` config; without arguments DeepLabV3 with logit KD from a random wider DeepLabV3."""
    return dict(
        type='mmdistill_dense.DistillModel',
        student=student or seg_net(),
        teacher=seg_net(width=16, allow_random=True) if teacher is None else teacher,
        distillers=dict(kd=dict(type='LogitKD')) if distillers is None else distillers,
        **student_keys,
    )


def build(config: Mapping[str, Any], seed: int = 0, scope: str = 'mmseg') -> Any:
    """Build a ``DistillModel`` under a seed, not yet ready to train."""
    init_default_scope(scope)
    torch.manual_seed(seed)
    return MODELS.build(ConfigDict(copy.deepcopy(dict(config))))


def ready(model: Any) -> Any:
    """Initialise as the runner does, and stand in for the hook."""
    model.init_weights()
    if hasattr(model, 'distillation'):
        model.distillation.enter_run(max_iters=10)
    return model.train()


def distilled(scope: str = 'mmseg', **options: Any) -> Any:
    """A model that can be trained; options of :func:`model_config`."""
    return ready(build(model_config(**options), scope=scope))


def teacher_of(model: Any) -> FrozenTeacher:
    (teacher,) = model.distillation.teachers.values()
    return teacher


def frozen(option: Any, *taps: str, size: tuple[int, int] = (64, 64)) -> FrozenTeacher:
    """A teacher with taps, not loaded, planned by a trace at a size as a student's construction does it."""
    parsed, actual = TeacherOption.parse(option), [Tap.parse(tap) for tap in taps]
    with DefaultScope.overwrite_default_scope(parsed.config.scope):
        _, traced = trace_pair(nn.Identity(), [], {'t': (parsed, actual)}, size)
    return FrozenTeacher(parsed, traced['t'])


def still_norms(model: nn.Module) -> None:
    """Let the batch norms of a network in training use their running statistics."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def hooks_left(network: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in network.modules())


@DISTILLERS.register_module()
class MaskedMimic(FeatureDistiller):
    """Squared difference at random positions, behind a convolution: a method with parameters and random masks."""

    def __init__(self, student_tap: Any = 'backbone[3]', teacher_tap: Any = None, ratio: float = 0.5, **kwargs: Any):
        super().__init__(student_tap, teacher_tap, **kwargs)
        self.ratio = ratio

    def build_level(self, level: Level) -> nn.Module:
        return nn.Conv2d(level.teacher[0], level.teacher[0], 1)

    def loss(self, student: Tensor, teacher: Tensor, level: int) -> dict[str, Tensor]:
        mask = torch.rand(student.shape[0], 1, *student.shape[2:], generator=self.generator()) < self.ratio
        difference = self.parts[level](student).float() - teacher.float()
        return {'loss_mimic': (difference.square() * to_device(mask, student)).mean()}


# Batches

painted = functools.cache(paint)  # what is taken of it is copied


def seg_batch(count: int = 2, seed: int = 0, side: int = SIDE) -> dict:
    """A raw batch of generated pictures, as a loader gives it."""
    from mmseg.structures import SegDataSample

    inputs, samples = [], []
    for index in range(count):
        picture = painted(seed, index, size=(side, side))
        sample = SegDataSample(metainfo=dict(img_path=str(index), img_shape=(side, side), ori_shape=(side, side)))
        sample.gt_sem_seg = PixelData(data=torch.from_numpy(picture.labels.astype(np.int64))[None])
        inputs.append(torch.from_numpy(picture.image.transpose(2, 0, 1).copy()))
        samples.append(sample)
    return dict(inputs=inputs, data_samples=samples)


def det_item(seed: int, index: int, side: int = SIDE, masks: bool = False) -> dict:
    """One raw picture with its boxes, and its instance masks where asked."""
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks

    picture = painted(seed, index, size=(side, side), objects=(2, 4))
    boxes = torch.tensor([list(i.box) for i in picture.instances], dtype=torch.float32).reshape(-1, 4)
    labels = torch.tensor([i.label - 1 for i in picture.instances], dtype=torch.long)
    shape = (side, side)
    meta = dict(img_id=index, img_shape=shape, ori_shape=shape, pad_shape=shape, scale_factor=(1.0, 1.0))
    sample = DetDataSample(metainfo=meta)
    sample.gt_instances = InstanceData(bboxes=boxes, labels=labels)
    if masks:
        seen = np.array([i.mask for i in picture.instances], np.uint8).reshape(-1, side, side)
        sample.gt_instances.masks = BitmapMasks(seen, side, side)
    return dict(inputs=torch.from_numpy(picture.image.transpose(2, 0, 1).copy()), data_samples=sample)


def det_batch(count: int = 2, seed: int = 0, masks: bool = False, side: int = SIDE) -> dict:
    """A raw batch of generated pictures with boxes, and instance masks where asked."""
    items = [det_item(seed, index, side, masks) for index in range(count)]
    return dict(inputs=[item['inputs'] for item in items], data_samples=[item['data_samples'] for item in items])


@DATASETS.register_module()
class ToyDetDataset(BaseDataset):
    """Generated detection data in memory."""

    METAINFO = dict(classes=CLASSES[1:])

    def __init__(self, num_images: int = 8, seed: int = 0, masks: bool = False) -> None:
        self.num_images, self.seed, self.masks = num_images, seed, masks
        super().__init__(serialize_data=False)

    def load_data_list(self) -> list[dict]:
        return [dict(index=index) for index in range(self.num_images)]

    def __getitem__(self, index: int) -> dict:
        return det_item(self.seed, index, masks=self.masks)


def losses_of(model: Any, batch: Mapping[str, Any] | None = None) -> dict[str, Any]:
    return model(**model.data_preprocessor(copy.deepcopy(batch) if batch else seg_batch(), True), mode='loss')


def total(losses: Mapping[str, Any]) -> Tensor:
    """The sum that mmengine back-propagates."""
    return sum(
        v.mean() if isinstance(v, Tensor) else sum(t.mean() for t in v) for k, v in losses.items() if 'loss' in k
    )


def bare(batch: Mapping[str, Any]) -> dict[str, Any]:
    """The same pictures without their labels."""
    batch = copy.deepcopy(dict(batch))
    for sample in batch['data_samples']:
        for name in [name for name in ('gt_sem_seg', 'gt_instances') if name in sample]:
            delattr(sample, name)
    return batch


# Files


@functools.cache
def picture_folder(count: int = 6, seed: int = 9) -> str:
    """A folder of generated pictures without labels: 0.png, 1.png and so on."""
    folder = fresh_dir()
    for index in range(count):
        cv2.imwrite(str(folder / f'{index}.png'), paint(seed, index, size=(SIDE, SIDE)).image)
    return str(folder)


# The outputs of freshly initialised heads are almost constant; a teacher should say something.
_LAYERS = ('conv_seg', 'fc_cls', 'fc_reg', 'retina_cls', 'retina_reg', 'gfl_cls', 'gfl_reg', 'atss_cls', 'atss_reg')
_OUTPUTS = (*_LAYERS, 'pts_init_out', 'pts_refine_out')


@functools.cache
def _plain_teacher(kind: str, width: int, channels: int | None) -> nn.Module:
    network = build_plain(seg_net(kind, width) if kind in SEG else det_net(kind, width, channels), seed=7)
    torch.manual_seed(8)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith('.weight') and name.split('.')[-2].endswith(_OUTPUTS):
                parameter.normal_(std=0.5)
        for name, buffer in network.named_buffers():
            if name.endswith('running_mean'):
                buffer.normal_(std=0.1)
    return network


@functools.cache
def teacher_file(
    kind: str = 'deeplabv3', width: int = 16, channels: int | None = None, runner_file: bool = False
) -> str:
    """The path of a teacher's weights; ``runner_file`` is one that a real mmengine run wrote."""
    network = _plain_teacher(kind, width, channels)
    if not runner_file:
        path = fresh_dir() / f'{kind}_{width}.pth'
        torch.save(dict(state_dict=network.state_dict(), meta=dict()), path)
        return str(path)
    work_dir = fresh_dir()
    train(work_dir, seg_net(kind, width), iters=2)
    return str(work_dir / 'iter_2.pth')


def seg_teacher(kind: str = 'deeplabv3', width: int = 16, **options: Any) -> dict:
    return merged(seg_net(kind, width, checkpoint=teacher_file(kind, width)), options)


def det_teacher(kind: str = 'retinanet', width: int = 16, channels: int | None = None, **options: Any) -> dict:
    """The option of a detector as teacher, with weights from a file; ``channels`` as in :func:`det_net`."""
    return merged(det_net(kind, width, channels, checkpoint=teacher_file(kind, width, channels)), options)


# Runs


def run_config(
    work_dir: Path | str, model: Mapping[str, Any], iters: int = 4, epochs: int | None = None, **changes: Any
) -> Config:
    """A run on 8 generated pictures of 64 pixels, batch 2: ``iters`` iterations, or ``epochs`` of 4 iterations.

    ``model`` is a ``DistillModel`` or a network option; ``changes`` are merged over the config.
    """
    pipeline = [
        dict(type='mmdistill_dense.LoadShapes'),
        dict(type='RandomFlip', prob=0.5),
        dict(type='PhotoMetricDistortion'),
        dict(type='PackSegInputs'),
    ]
    painting = dict(size=(SIDE, SIDE))
    shapes = dict(type='mmdistill_dense.ShapesSegDataset', serialize_data=False)
    dataset = dict(shapes, num_images=8, painting=painting, pipeline=pipeline)
    validation = dict(dataset, num_images=2, seed=1, pipeline=[pipeline[0], pipeline[-1]])
    in_order = dict(type='DefaultSampler', shuffle=False)
    by_epoch = epochs is not None
    sampler = dict(type='DefaultSampler' if by_epoch else 'InfiniteSampler', shuffle=True)
    length = dict(type='EpochBasedTrainLoop', max_epochs=epochs) if by_epoch else dict(max_iters=iters)
    loop = dict(dict(type='IterBasedTrainLoop', val_interval=10**6), **length)
    config = dict(
        default_scope='mmseg',
        work_dir=str(work_dir),
        model=_as_model(model),
        train_dataloader=dict(batch_size=2, num_workers=0, dataset=dataset, sampler=sampler),
        val_dataloader=dict(batch_size=1, num_workers=0, sampler=in_order, dataset=validation),
        val_evaluator=dict(type='IoUMetric', iou_metrics=['mIoU']),
        optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01, momentum=0.9)),
        train_cfg=loop,
        val_cfg=dict(type='ValLoop'),
        default_hooks=dict(
            timer=dict(type='IterTimerHook'),
            logger=dict(type='LoggerHook', interval=1, log_metric_by_epoch=False),
            param_scheduler=dict(type='ParamSchedulerHook'),
            checkpoint=dict(type='CheckpointHook', by_epoch=by_epoch, interval=1 if by_epoch else 2),
            sampler_seed=dict(type='DistSamplerSeedHook'),
            distill=dict(type='mmdistill_dense.DistillHook'),
        ),
        log_processor=dict(by_epoch=by_epoch),
        log_level='ERROR',
        randomness=dict(seed=5),
    )
    return Config(merged(config, changes))


def det_run_config(
    work_dir: Path | str, model: Mapping[str, Any], iters: int = 2, masks: bool = False, **changes: Any
) -> Config:
    """The same for detection, without validation; ``masks`` gives the pictures instance masks."""
    config = run_config(work_dir, model, iters)._cfg_dict.to_dict()
    for name in ('val_dataloader', 'val_evaluator', 'val_cfg'):
        del config[name]
    config['default_scope'] = 'mmdet'
    dataset = dict(type='mmdistill_dense.ToyDetDataset', masks=masks)
    config['train_dataloader'].update(dataset=dataset, collate_fn=dict(type='pseudo_collate'))
    return Config(merged(config, changes))


def _as_model(model: Mapping[str, Any]) -> dict:
    if 'distillers' in model or 'cfg' not in model:
        return copy.deepcopy(dict(model))
    config = load_model(model, 'model')
    return dict(config.model.to_dict(), _scope_=config.scope)


def make_runner(
    work_dir: Path | str, model: Mapping[str, Any] | Config, iters: int = 4, epochs: int | None = None, **changes: Any
) -> Runner:
    """A runner of :func:`run_config` (or of a config given whole)."""
    config = model if isinstance(model, Config) else run_config(work_dir, model, iters, epochs, **changes)
    config.experiment_name = f'toy_{fresh_dir().name}'
    return Runner.from_cfg(config)


def train(work_dir: Path | str, model: Mapping[str, Any] | Config, **options: Any) -> Runner:
    runner = make_runner(work_dir, model, **options)
    try:
        runner.train()
    finally:
        stop_workers(runner)
    return runner


def stop_workers(runner: Runner) -> None:
    """Stop the workers of an iteration-based loop: left to the garbage collector, each takes seconds to die."""
    batches = getattr(runner._train_loop, 'dataloader_iterator', None)
    if isinstance(batches, SeededBatches):
        batches.close()
    elif batches is not None:
        batches._iterator = runner.train_dataloader._iterator = None


def student_state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def differing(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> list[str]:
    """Names of tensors that are not equal bit for bit; names on one side count."""
    names: Sequence[str] = sorted(set(first) | set(second))
    return [n for n in names if n not in first or n not in second or not torch.equal(first[n], second[n])]


def seg_config(folder: Path, distillers: Mapping[str, Any] | None = None, **changes: Any) -> Config:
    model = model_config(teacher=seg_teacher(), distillers=distillers)
    return run_config(folder, model, **{'auto_scale_lr': dict(base_batch_size=2), **changes})


@TRANSFORMS.register_module()
class NoAnnotations(BaseTransform):
    """Gives a picture of a file the label map of nothing."""

    def transform(self, results):
        results['gt_seg_map'] = np.zeros(results['img'].shape[:2], np.uint8)
        results['seg_fields'].append('gt_seg_map')
        return results


def files(folder, kind):
    """A loader that reads the pictures of a folder as if they were labelled."""
    pipeline = [dict(type='LoadImageFromFile'), dict(type='mmdistill_dense.NoAnnotations'), dict(type='PackSegInputs')]
    prefix, classes = dict(img_path=str(folder)), dict(classes=[str(number) for number in range(NUM_CLASSES)])
    dataset = dict(type='BaseSegDataset', data_prefix=prefix, img_suffix='.png', metainfo=classes, pipeline=pipeline)
    sampler = dict(type='InfiniteSampler' if kind == 'train' else 'DefaultSampler')
    loader = dict(batch_size=2, num_workers=0, dataset=dataset, sampler=sampler)
    rest = dict(test_cfg=dict(type='TestLoop'), test_evaluator=dict(type='IoUMetric')) if kind == 'test' else {}
    return {f'{kind}_dataloader': loader, **rest}
