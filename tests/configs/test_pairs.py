"""The pairs of the zoo: both networks as published, recipes as the students' own, the table of docs/pairs.md."""

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope, init_default_scope
from torch import nn

from mmdistill_dense.apps.recipes import compose
from mmdistill_dense.config.resolve import find_config, load_model, package_root
from mmdistill_dense.networks.building import build_network
from mmdistill_dense.networks.taps import Tap
from mmdistill_dense.networks.trace import _NumbersOnCPU, trace_pair
from mmdistill_dense.weights.strict_load import _read_yaml
from tests.every_config import CONFIGS

PAIRS = {compose.parts_of(path).pair for path in compose.recipes()}
TABLE = (CONFIGS.parent / 'docs/pairs.md').read_text(encoding='utf-8')
# recipes whose student has a published one of its own, which they follow
OWN = [
    'segformer_b4_to_b0_ade20k', 'segformer_b4_to_b0_cityscapes', 'pspnet_r101_to_pspnet_r18_cityscapes',
    'gfl_r101_to_r50_coco', 'atss_r101_to_r50_coco', 'mask_rcnn_r101_to_r50_coco', 'rtmdet_l_to_tiny_coco',
    'rtmdet_s_to_tiny_coco', 'rtmdet_m_to_s_coco', 'rtmdet_l_to_m_coco', 'rtmdet_x_to_l_coco',
    'dino_r50_to_r18_coco', 'deformable_detr_r50_to_r18_coco_maskd', 'pidnet_l_to_pidnet_s_cityscapes',
    'ddrnet_23_to_ddrnet_23-slim_cityscapes', 'deeplabv3plus_r101_to_bisenetv2_cityscapes', 'stdc2_to_stdc1_cityscapes',
    'mask2former_swin-l_to_mask2former_r50_cityscapes', 'segnext_b_to_segnext_t_ade20k', 'yolox_l_to_s_coco',
]  # fmt: skip


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
