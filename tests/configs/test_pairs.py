"""The pairs of the zoo: both networks as published, recipes as the students' own, the table of docs/pairs.md."""

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope, init_default_scope
from PIL import Image
from torch import nn
from torch.nn import functional

from mmdistill_dense.apps.recipes import compose
from mmdistill_dense.config.resolve import find_config, load_model, package_root, without_pretrained
from mmdistill_dense.foundation.vit import architecture
from mmdistill_dense.networks.building import build_network
from mmdistill_dense.networks.taps import Tap
from mmdistill_dense.networks.trace import _NumbersOnCPU, trace_pair
from mmdistill_dense.registry import DATASETS
from mmdistill_dense.weights.strict_load import _read_yaml

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / 'configs'
PAIRS = {compose.parts_of(path).pair for path in compose.recipes()}
TABLE = (ROOT / 'docs/pairs.md').read_text(encoding='utf-8')
# recipes whose student has a published one of its own, which they follow
OWN = [
    'segformer_b4_to_b0_ade20k', 'segformer_b4_to_b0_cityscapes', 'pspnet_r101_to_pspnet_r18_cityscapes',
    'gfl_r101_to_r50_coco', 'atss_r101_to_r50_coco', 'mask_rcnn_r101_to_r50_coco', 'rtmdet_l_to_tiny_coco',
    'rtmdet_s_to_tiny_coco', 'rtmdet_m_to_s_coco', 'rtmdet_l_to_m_coco', 'rtmdet_x_to_l_coco',
    'dino_r50_to_r18_coco', 'deformable_detr_r50_to_r18_coco_maskd', 'pidnet_l_to_pidnet_s_cityscapes',
    'ddrnet_23_to_ddrnet_23-slim_cityscapes', 'deeplabv3plus_r101_to_bisenetv2_cityscapes', 'stdc2_to_stdc1_cityscapes',
    'mask2former_swin-l_to_mask2former_r50_cityscapes', 'segnext_b_to_segnext_t_ade20k', 'yolox_l_to_s_coco',
]  # fmt: skip
SIDE = 256


@cache
def recipe(name: str) -> Config:
    return Config.fromfile(CONFIGS / f'_base_/recipes/{name}.py')


def usual(pair: str) -> str:
    """The usual recipe of a pair, or the published one of a method where it has no other."""
    file = CONFIGS / f'_base_/recipes/{pair}.py'
    return pair if file.is_file() else next(CONFIGS.glob(f'_base_/recipes/{pair}_*.py')).stem


def rows() -> dict[str, list[str]]:
    """The table's rows by pair: score of student and teacher, channels and strides, data and schedule, source."""
    cells = (re.split(r'\s*\|\s*', line.strip('| \n')) for line in TABLE.splitlines() if line.startswith('| `'))
    return {row[0].strip('`'): row[1:] for row in cells if '_to_' in row[0]}


# The table


def test_every_pair_stands_in_the_table() -> None:
    assert set(rows()) == {pair for pair in PAIRS if '_to_' in pair and '_and_' not in pair}
    for pair, row in rows().items():
        parts = compose.parts_of(usual(pair))
        schedule = 'its own' if parts.schedule == pair else f'`{parts.schedule}`'
        assert row[3] == f'`{parts.dataset}`, {schedule}', pair


def scores(cfg: str) -> set[float]:
    """What the package's own metafiles say of a config: mIoU, or AP of boxes and masks."""
    package, _, name = cfg.partition('::')
    content = _read_yaml(next(package_root(package).glob(f'configs/{name.split("/")[0]}/metafile.y*ml')))
    models = content.get('Models', content) if isinstance(content, dict) else content
    told = [model['Results'] for model in models if model['Config'] == f'configs/{name}']
    results = [one for some in told for one in (some if isinstance(some, list) else [some])]
    return {float(value) for one in results for key, value in (one['Metrics'] or {}).items() if 'flip' not in key}


@pytest.mark.soak
def test_scores_are_those_of_the_metafiles() -> None:
    for pair, row in rows().items():
        model = recipe(usual(pair)).model
        for cell, option in ((row[0], model.student), (row[1], model.teacher)):
            told, cfg = {float(number) for number in re.findall(r'\d+\.\d+', cell)}, option.get('cfg', '')
            assert told <= (scores(cfg) if cfg.startswith(('mmseg::', 'mmdet::')) else set()), pair
        if model.teacher.checkpoint == 'auto':
            assert re.search(r'\d', row[1]), pair


# The networks


@cache
def _parts(option: str, names: tuple[str, ...]) -> str:
    model = load_model(json.loads(option), 'network').model
    text = json.dumps([model[key].to_dict() for key in names if model.get(key)], sort_keys=True)
    return text.replace('"depth": 101', '"depth": 50')  # same maps, less work


@cache
def _maps(parts: str, scope: str) -> list[torch.Size]:
    # mmcv's deformable convolutions know no meta device
    device = 'cpu' if '"dcn"' in parts else 'meta'
    same = mock.patch.multiple(functional, batch_norm=_same, relu=_same)  # most of the work, and no shape hangs on it
    with DefaultScope.overwrite_default_scope(scope), torch.device(device), _NumbersOnCPU(), torch.no_grad(), same:
        maps = torch.zeros(1, 3, SIDE, SIDE)
        for option in json.loads(parts):
            option = {key: tuple(one) if key == 'out_indices' else one for key, one in option.items()}  # not a list
            part = MODELS.build(ConfigDict(without_pretrained(option)))
            part.eval()  # not chained: mmseg's backbones return nothing from it
            maps = part(maps)
    return [one.shape for one in ([maps] if torch.is_tensor(maps) else maps)]


def _same(maps: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    return maps


def maps_of(option: Mapping[str, Any], scope: str, maps_alone: bool) -> list[tuple[int, int]]:
    """Channels and stride of what is compared in a network.

    That is the map which a segmentor's head reads last, the levels of a detector's neck, the map of a foundation model
    and, beside it, the student's last stage.
    """
    if 'model' in option:
        found = architecture(option['model'])
        return [(found.dim, round(found.patch / option.get('scale', 1)))]
    network = {key: value for key, value in option.items() if key != 'checkpoint'}
    parts = ('backbone',) if maps_alone else ('backbone', 'neck')
    maps = [(one[1], SIDE // one[2]) for one in _maps(_parts(json.dumps(network, sort_keys=True), parts), scope)]
    if scope == 'mmdet' and not maps_alone:
        return maps
    read = -1 if maps_alone else load_model(network, 'network').model.get('decode_head', {}).get('in_index', -1)
    return [maps[read if isinstance(read, int) else -1]]


@pytest.mark.parametrize('maps_alone', [True, pytest.param(False, marks=pytest.mark.soak)])
def test_levels_are_as_the_table_says(maps_alone: bool) -> None:
    """Channels, strides and number of levels of both networks; two detectors have as many levels."""
    found = {pair: row[2] for pair, row in rows().items() if compose.parts_of(usual(pair)).maps == maps_alone}
    assert len(found) == 7 or not maps_alone
    for pair, told in found.items():
        cfg = recipe(usual(pair))
        own, taught = (maps_of(side, cfg.default_scope, maps_alone) for side in (cfg.model.student, cfg.model.teacher))
        channels = f'{own[0][0]} → {taught[0][0]}'
        strides = [[stride for _, stride in maps] for maps in (own, taught)]
        first, second = (one[0] for one in strides)
        if strides[0] != strides[1]:
            assert maps_alone or cfg.default_scope == 'mmseg', pair
            assert told == f'{channels}; strides {first} and {second}', pair
        elif cfg.default_scope == 'mmdet':
            assert told == f'{channels}; {len(own)} level{"s" * (len(own) > 1)} from stride {first}', pair
        else:
            assert told == f'{channels}; stride {first}', pair


@pytest.mark.soak
def test_behind_the_neck_a_detector_with_queries_is_tapped_in_a_whole_pass() -> None:
    cfg = recipe('dino_r50_to_r18_coco')
    with DefaultScope.overwrite_default_scope('mmdet'):
        option = load_model(
            {**cfg.model.student, 'encoder': dict(num_layers=1), 'decoder': dict(num_layers=1)}, 'student'
        )
        student = build_network(option, pretrained=False)
        traced, _ = trace_pair(student, [Tap.parse(tap) for tap in ('encoder', 'bbox_head[0]')], {}, (256, 256))
    cells = sum((256 // stride) ** 2 for stride in (8, 16, 32, 64))
    assert traced.shapes == {'encoder': [(1, cells, 256)], 'bbox_head[0]': [(1, 1, 900, 80)]}


# The recipes


def groups(network: nn.Module, optim: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """Learning rate and weight decay of every parameter that trains."""
    wrapper = build_optim_wrapper(network, {key: value for key, value in optim.items() if key != '_delete_'})
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    return {
        names[id(parameter)]: (group['lr'], group['weight_decay'])
        for group in wrapper.optimizer.param_groups
        for parameter in group['params']
    }


def plain(value: Any) -> Any:
    """A config without what says nothing: storage backends, unset values."""
    if isinstance(value, Mapping):
        return {k: plain(v) for k, v in value.items() if v is not None and k not in ('backend_args', '_delete_')}
    return [plain(member) for member in value] if isinstance(value, (list, tuple)) else value


def hooks(cfg: Config) -> Iterator[dict]:
    """The hooks that change what is learnt."""
    for hook in [*cfg.default_hooks.values(), *cfg.get('custom_hooks', [])]:
        if hook.type in ('EMAHook', 'PipelineSwitchHook'):
            yield plain(hook)


@pytest.mark.parametrize('name', OWN)
def test_recipe_is_the_students_own(name: str) -> None:
    cfg = recipe(name)
    own = Config.fromfile(find_config(cfg.model.student.cfg))
    init_default_scope(cfg.default_scope)
    with torch.device('meta'), _NumbersOnCPU():
        network = build_network(load_model(cfg.model.student, 'student'), pretrained=False)
    assert groups(network, cfg.optim_wrapper) == groups(network, own.optim_wrapper)
    assert plain(cfg.optim_wrapper.optimizer) == plain(own.optim_wrapper.optimizer)
    assert plain(cfg.optim_wrapper.get('clip_grad')) == plain(own.optim_wrapper.get('clip_grad'))
    assert plain(cfg.param_scheduler) == plain(own.param_scheduler)
    for key in ('type', 'max_epochs', 'max_iters', 'dynamic_intervals'):
        assert cfg.train_cfg.get(key) == own.train_cfg.get(key), key
    assert list(hooks(cfg)) == list(hooks(own))
    assert plain(cfg.train_pipeline) == plain(own.train_dataloader.dataset.pipeline)
    assert cfg.train_dataloader.batch_size == own.train_dataloader.batch_size
    if 'cityscapes' not in name:  # tested whole at native size in any case
        measured = plain(own.test_dataloader.dataset.pipeline)
        assert [step for step in plain(cfg.test_pipeline) if 'Pack' not in step['type']] == measured[:-1]


def test_distillers_learn_as_fast_as_the_new_head() -> None:
    network = nn.ModuleDict({name: nn.Conv2d(1, 1, 1) for name in ('backbone', 'decode_head', 'distillers')})
    rates = {
        name: rate for name, (rate, _) in groups(network, recipe('segformer_b4_to_b0_ade20k').optim_wrapper).items()
    }
    assert rates['distillers.weight'] == rates['decode_head.weight'] == pytest.approx(10 * rates['backbone.weight'])


# The data


def test_cocostuff_reads_what_the_converter_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    init_default_scope('mmseg')
    labels = np.full((40, 60), 170, np.uint8)
    labels[:10] = 255
    for folder in ('images', 'annotations'):
        (tmp_path / 'coco_stuff164k' / folder / 'val2017').mkdir(parents=True)
    root = tmp_path / 'coco_stuff164k'
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(root / 'images/val2017/000000000139.jpg')
    Image.fromarray(labels).save(root / 'annotations/val2017/000000000139_labelTrainIds.png')
    Image.fromarray(labels).save(root / 'annotations/val2017/000000000139.png')  # the raw labels lie beside
    monkeypatch.setenv('MMDISTILL_DATA', str(tmp_path))
    data = DATASETS.build(Config.fromfile(CONFIGS / '_base_/datasets/cocostuff_512x512.py').val_dataloader.dataset)
    assert (len(data), len(data.metainfo['classes'])) == (1, 171)
    assert data[0]['data_samples'].gt_sem_seg.data.unique().tolist() == [170, 255]
