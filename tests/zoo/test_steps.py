"""Every config that can be named resolves, builds at full width with taps that can be compared, and takes a step.

A step has the config's own optimizer and schedule, networks of reduced width and generated pictures. ``make test``
takes one with each kind of network (``tests/model/test_settings.py`` takes one of each method), ``make soak`` one with
each pair of networks, and builds the files and the controls of each, on one data set. ``make test-zoo`` builds all,
those of a pair one after the other, as they share their networks, and takes a step of all.
"""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.dataset import BaseDataset
from mmengine.hooks import Hook
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement, PixelData
from torch.nn.modules.batchnorm import _BatchNorm

from mmdistill_dense.config.resolve import is_distill_model, load_model, student_option
from mmdistill_dense.config.values import num_classes
from mmdistill_dense.distillers.feature import FeatureDistiller
from mmdistill_dense.registry import DATASETS, HOOKS
from tests import toys
from tests.every_config import CONTROLS, DATA, FILES, by_pair, every, name_of, place
from tests.zoo.narrow import SIDE, narrow, side_of
from tests.zoo.networks import EVALUATION, active, build, config, key_of

# what does not fit into narrow maps of a small picture, or takes long
SMALL = dict(
    AfDCD=dict(pool_size=0, groups=8),
    CrossKD=dict(reuse_from=1),
    FreeKD=dict(learn=dict(max_iters=1)),
    MasKD=dict(learn=dict(max_iters=1)),
    PCD=dict(queue_size=64, queue_init='random'),  # an empty queue has no loss yet
)
_SECOND_STAGE = ('memory_trans', 'pos_trans')
_files: dict[str, str] = {}


@DATASETS.register_module()
class ZooDataset(BaseDataset):
    """Two generated pictures for a network of any task."""

    def __init__(self, kind: str, classes: int, masks: bool, side: int = SIDE) -> None:
        self.kind, self.count, self.masks, self.side = kind, classes, masks, side
        metainfo = dict(classes=tuple(f'class{index}' for index in range(classes))) if classes else {}
        super().__init__(metainfo=metainfo, serialize_data=False)

    def load_data_list(self) -> list[dict]:
        return [dict(index=index) for index in range(2)]

    def __getitem__(self, index: int) -> dict:
        if self.kind == 'mmdet':
            item = toys.det_item(0, index, side=self.side, masks=self.masks)
            item['data_samples'].gt_instances.labels %= self.count
            return item
        batch = toys.seg_batch(2, side=self.side)
        picture, sample = batch['inputs'][index], batch['data_samples'][index]
        if self.kind == 'mmseg':
            sample.gt_sem_seg.data %= self.count
            sample.gt_edge_map = PixelData(data=sample.gt_sem_seg.data % 2)  # PIDNet's
            return dict(inputs=picture, data_samples=sample)
        return dict(inputs=[picture, picture.flip(2)], data_samples=BaseDataElement())


@HOOKS.register_module()
class Gradients(Hook):
    """Keeps the parameters that have a gradient, and whether it is finite, as the optimizer takes its step."""

    def __init__(self) -> None:
        self.finite: dict[str, bool] = {}

    def before_train(self, runner: Runner) -> None:
        def note(*_: Any) -> None:
            actual = ((name, p.grad) for name, p in runner.model.named_parameters() if p.grad is not None)
            self.finite = {name: bool(grad.isfinite().all()) for name, grad in actual if grad.any()}

        runner.optim_wrapper.optimizer.register_step_pre_hook(note)


def step(cfg: Config, work_dir: Path) -> Runner:
    cfg = copy.deepcopy(cfg)
    init_default_scope(cfg.default_scope)
    cfg.model = _model(cfg.model)
    student = cfg.model.student if is_distill_model(cfg.model) else cfg.model
    classes = num_classes(student) or 0
    data = dict(kind=cfg.default_scope if classes else 'views', classes=classes, side=side_of(student))
    data.update(type='mmdistill_dense.ZooDataset', masks=student.data_preprocessor.get('pad_mask', False))
    sampler, collate = dict(type='DefaultSampler', shuffle=False), dict(type='pseudo_collate')
    for name in EVALUATION:
        cfg.pop(name, None)
    cfg.train_dataloader = dict(batch_size=2, num_workers=0, dataset=data, sampler=sampler, collate_fn=collate)
    by_epoch = 'max_iters' not in cfg.train_cfg
    cfg.train_cfg = dict(by_epoch=by_epoch, **{'max_epochs' if by_epoch else 'max_iters': 1})
    cfg.default_hooks.pop('visualization', None)
    cfg.default_hooks.update(logger=None, checkpoint=None)
    averages = [hook for hook in cfg.pop('custom_hooks', []) if hook.type == 'EMAHook']
    cfg.custom_hooks = [*averages, dict(type='mmdistill_dense.Gradients', priority='VERY_HIGH')]
    cfg.log_level = 'ERROR'
    cfg.work_dir = str(work_dir)
    cfg.experiment_name = toys.fresh_dir().name
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner


def _model(model: Mapping[str, Any]) -> ConfigDict:
    if not is_distill_model(model):
        return ConfigDict(narrow(load_model(model, 'model')))
    options = dict(student=narrow(load_model(student_option(model), 'student')))
    for name in ('teacher', 'distillers', 'inherit'):
        if model.get(name):
            options[name] = copy.deepcopy(model[name])
    if options['student'].get('as_two_stage') is False:  # as `narrow` leaves Deformable DETR
        options['inherit'] = [pair for pair in options.get('inherit', ()) if not pair[1].startswith(_SECOND_STAGE)]
    for distiller in (options.get('distillers') or {}).values():
        for key, value in SMALL.get(distiller['type'], {}).items():
            distiller[key] = {**distiller.get(key, {}), **value} if isinstance(value, dict) else value
        if str(distiller.get('head', {}).get('type')).startswith('mlp'):
            distiller['head']['hidden'] = 32
    if teacher := options.get('teacher'):
        single = {'cfg', 'type'} & {*teacher}
        options['teacher'] = _teacher(teacher) if single else {name: _teacher(teacher[name]) for name in teacher}
    return ConfigDict(type='mmdistill_dense.DistillModel', **options)


def _teacher(option: Mapping[str, Any]) -> dict[str, Any]:
    """At reduced width, with weights from a file; without for self-supervised and foundation models."""
    config = load_model({name: value for name, value in option.items() if name != 'checkpoint'}, 'teacher')
    network = narrow(config)
    if 'layout' in network or 'backbone' not in network:
        return dict(network, allow_random=True)
    key = key_of(network)
    if key not in _files:
        torch.manual_seed(1)  # a student of the same widths draws other numbers
        built = MODELS.build(ConfigDict(network))
        built.init_weights()
        _calibrate(built)
        _files[key] = str(toys.fresh_dir() / 'teacher.pth')
        torch.save(built.state_dict(), _files[key])
    return dict(network, checkpoint=_files[key])


@torch.no_grad()
def _calibrate(network: Any) -> None:
    """Give the batch norms the statistics of a batch: with initial ones the maps of some networks die away."""
    network.train()
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.momentum = None  # the mean over all batches, which is one
            module.reset_running_stats()
    network.extract_feat(torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1)))


# A step at reduced width: one config of each kind of network, each of another method
CHOSEN = {
    'one-stage': 'control/atss_r101_to_r50_coco',
    'convolutional': 'afdcd/deeplabv3_r101_to_mobilenetv2_cityscapes',
    'queries': 'at/dino_r50_to_r18_coco',
    'transformer': 'cirkd/segformer_b4_to_b0_ade20k',
    'foundation': 'cwd/dinov2-vits14_to_deeplabv3_r18_ade20k',
    'two-stage': 'dist/faster_rcnn_cascade_mask_x101_to_r50_coco',
    'backbone': 'featurematch/mobilenetv2w05_from_mobilenetv2_small',
}


def trained() -> list[Path]:
    return [path for path in every() if path.parent.name != 'teachers']


def one_of_each() -> list[str]:
    """Of pairs that differ in their data alone, the one with the most files."""
    actual: dict[str, str] = {}
    for pair in sorted(by_pair(), key=lambda pair: len({*by_pair()[pair]} & {*FILES, *CONTROLS})):
        actual[DATA.split(pair, maxsplit=1)[0]] = pair
    return sorted(actual.values())


def standing_for_all() -> list[Path]:
    """A config of each pair of networks, of one method after the other."""
    pairs = [[path for path in by_pair()[pair] if path.parent.name != 'teachers'] for pair in one_of_each()]
    return [paths[number % len(paths)] for number, paths in enumerate(filter(None, pairs))]


def check_step(path: Path, folder: Path) -> None:
    cfg = config(path)
    runner = step(cfg, folder)
    (gradients,) = (hook for hook in runner.hooks if type(hook).__name__ == 'Gradients')
    assert gradients.finite and all(gradients.finite.values())
    trained = {parameter.split('.')[0] for parameter in gradients.finite}
    assert ('backbone' in trained) is not path.stem.endswith('_frozen')
    scalars = {key: value.current() for key, value in runner.message_hub.log_scalars.items()}
    expected = active(cfg.model) if is_distill_model(cfg.model) else set()
    assert {key.split('.')[1] for key in scalars if key.endswith('.share')} == expected
    for key in expected:
        losses = [value for term, value in scalars.items() if term.startswith(f'train/distill.{key}.loss_')]
        assert losses and all(0 <= value < float('inf') for value in losses), key
        owned = [parameter for parameter in gradients.finite if parameter.startswith(f'distillers.{key}.')]
        assert owned or not any(p.requires_grad for p in runner.model.distillers[key].parameters()), key


@pytest.mark.sample(2)
@pytest.mark.parametrize('name', CHOSEN.values())
def test_a_step_with_each_kind_of_network(name: str, tmp_path: Path) -> None:
    check_step(place(name), tmp_path)


@pytest.mark.soak
@pytest.mark.built('path', standing_for_all, name_of)
def test_a_step_of_configs_that_stand_for_all(path: Path, tmp_path: Path) -> None:
    check_step(path, tmp_path)


@pytest.mark.zoo
@pytest.mark.built('path', trained, name_of)
def test_a_step_of_each_config(path: Path, tmp_path: Path) -> None:
    check_step(path, tmp_path)


# At full width


def check_build(path: Path) -> None:
    cfg = config(path)
    model = build(cfg)
    distillers = getattr(model, 'distillers', {})
    assert set(distillers) == (active(cfg.model) if is_distill_model(cfg.model) else set()), path
    assert not any('distillers' in key or 'teacher' in key for key in model.state_dict()), 'a checkpoint is a student'
    for key, distiller in distillers.items():
        assert distiller.teacher.taps, (path, key)
        assert not isinstance(distiller, FeatureDistiller) or distiller.levels, f'{path}: {key} compares nothing'


def build_all(paths: list[Path]) -> None:
    for path in paths:
        try:
            check_build(path)
        except BaseException as error:
            error.add_note(f'in {name_of(path)}')
            raise


@pytest.mark.soak
@pytest.mark.built('pair', one_of_each)
def test_files_build(pair: str) -> None:
    build_all([path for path in by_pair()[pair] if path in {*FILES, *CONTROLS}])


@pytest.mark.zoo
@pytest.mark.built('pair', by_pair)
def test_every_config_builds(pair: str) -> None:
    build_all(by_pair()[pair])
