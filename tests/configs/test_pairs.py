"""The pairs: the table of docs/pairs.md, their recipes and heads, and what a student takes over from its teacher."""

import re
from functools import cache

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from torch import nn

from mmdistill_dense.apps.recipes import compose
from mmdistill_dense.apps.recipes.named import read_config
from mmdistill_dense.config.resolve import is_single_teacher, load_model, package_root
from mmdistill_dense.guards.config_rules import optimizer
from mmdistill_dense.guards.findings import RunFacts
from mmdistill_dense.networks.building import build_network
from mmdistill_dense.networks.inputs import make_renormaliser
from mmdistill_dense.networks.taps import Tap
from mmdistill_dense.networks.teacher import _below
from mmdistill_dense.networks.trace import trace_pair
from mmdistill_dense.weights.strict_load import _read_yaml
from tests.every_config import CONFIGS, leaf, student, teacher
from tests.zoo.networks import build

PAIRS = {compose.parts_of(path).pair for path in compose.recipes()}
TABLE = (CONFIGS.parent / 'docs/pairs.md').read_text(encoding='utf-8')


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
    tables = [model['Results'] for model in models if model['Config'] == f'configs/{name}']
    results = [result for table in tables for result in (table if isinstance(table, list) else [table])]
    return {float(value) for result in results for key, value in (result['Metrics'] or {}).items() if 'flip' not in key}


@pytest.mark.soak
def test_scores_are_those_of_the_metafiles() -> None:
    for pair, row in rows().items():
        model = recipe(usual(pair)).model
        for cell, option in ((row[0], model.student), (row[1], model.teacher)):
            text, cfg = {float(number) for number in re.findall(r'\d+\.\d+', cell)}, option.get('cfg', '')
            assert text <= (scores(cfg) if cfg.startswith(('mmseg::', 'mmdet::')) else set()), pair
        if model.teacher.checkpoint == 'auto':
            assert re.search(r'\d', row[1]), pair


@pytest.mark.soak
def test_a_detector_with_queries_is_tapped_behind_its_neck() -> None:
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


@pytest.mark.soak
def test_recipes_fit_the_networks_of_their_pair() -> None:
    """What a pair takes over from another may be an option for an auxiliary head that its own teacher has not."""
    for path in compose.recipes():
        config = Config.fromfile(path)
        assert not list(optimizer(RunFacts(config))), path
        option = config.model.teacher
        teachers = [option] if is_single_teacher(option) else option.values()
        for option in (config.model.student, *teachers):
            whole = load_model({key: value for key, value in option.items() if key != 'checkpoint'}, 'network').model
            parts = {key: part for key, part in whole.items() if key.endswith(('backbone', 'neck', 'head'))}
            assert not [key for key, part in parts.items() if isinstance(part, dict) and 'type' not in part], path


def test_distillers_learn_as_fast_as_the_new_head() -> None:
    network = nn.ModuleDict({name: nn.Conv2d(1, 1, 1) for name in ('backbone', 'decode_head', 'distillers')})
    wrapper = build_optim_wrapper(network, recipe('segformer_b4_to_b0_ade20k').optim_wrapper)
    rates = {id(weight): group['lr'] for group in wrapper.optimizer.param_groups for weight in group['params']}
    backbone, head, distillers = (rates[id(module.weight)] for module in network.values())
    assert distillers == head == pytest.approx(10 * backbone)


SEGFORMER = {'at': 'at', 'cirkd': 'cirkd', 'cwd': 'cwd_feature', 'fitnet': 'fitnet', 'ifvd': 'ifvd', 'skd': 'skd'}


def test_segformer_features_are_taken_before_the_dropout() -> None:
    config, options = leaf('at/segformer_b4_to_b0_cityscapes'), {}
    for method, name in SEGFORMER.items():
        options[method] = leaf(f'{method}/segformer_b4_to_b0_cityscapes').model.distillers[name]
        assert options[method].student_tap == 'decode_head.fusion_conv', method
    config.model.distillers = options
    for method, distiller in build(config).distillers.items():
        (level,) = distiller.levels  # the tap is there in both networks
        assert (len(level.student), level.student[0], level.teacher[0]) == (3, 256, 256), method


# What is inherited

QUERIES = {  # with parameters, in millions, that the student takes over
    'maskd:deformable_detr_r50_to_r18_coco': (293, 12.07),
    'pkd:dino_r50_to_r18_coco': (297, 18.687),
}
INHERITED = {  # with the number of tensors
    'maskd:faster_rcnn_r101_to_r50_coco': 30, 'maskd:faster_rcnn_cascade_mask_x101_to_r50_coco': 16,
    'maskd:retinanet_r101_to_r50_coco': 36, 'maskd:retinanet_x101_to_r50_coco': 36,
    'maskd:retinanet_r101_to_mobilenetv2_coco': 20, 'maskd:fcos_r101_to_r50_coco': 51,
    'maskd:reppoints_x101_to_r50_coco': 53, **{pair: count for pair, (count, _) in QUERIES.items()},
}  # fmt: skip


@pytest.mark.parametrize(('pair', 'count'), INHERITED.items())
def test_what_is_inherited_has_the_same_shapes(pair: str, count: int) -> None:
    """Of two networks that see the same pixels."""
    config = leaf(f'{pair.replace(":", "/")}_inherit')
    assert make_renormaliser(student(config).data_preprocessor, teacher(config).data_preprocessor) is None
    student_shapes, teacher_shapes = shapes(config.model.student), shapes(config.model.teacher)
    taken = 0
    for target, source in config.model.inherit:
        student_part, words = _below(student_shapes, target), _below(teacher_shapes, source)
        biases = {name for name in student_part.keys() - words.keys() if name.endswith('conv.bias')}
        assert {name: student_part[name] for name in student_part.keys() - biases} == words
        assert len(biases) == (8 if 'fcos' in pair and target == 'bbox_head' else 0)
        taken += len(words)
    assert taken == count


def shapes(option: dict) -> dict[str, torch.Size]:
    network = {key: value for key, value in option.items() if key != 'checkpoint'}
    with torch.device('meta'), DefaultScope.overwrite_default_scope('mmdet'):
        built = build_network(load_model(network, 'model'), pretrained=False)
    return {name: value.shape for name, value in built.state_dict().items()}


@pytest.mark.parametrize('pair', QUERIES)
def test_a_detector_with_queries_inherits_all_behind_the_neck(pair: str) -> None:
    """And changes nothing else; what DINO takes over learns at a tenth of the rate."""
    config, plain = leaf(f'{pair.replace(":", "/")}_inherit'), read_config(pair)
    student_shapes, inherited = shapes(config.model.student), {target for target, _ in config.model.pop('inherit')}
    assert inherited == {name.split('.')[0] for name in student_shapes} - {'backbone', 'neck'}
    count = sum(shape.numel() for name, shape in student_shapes.items() if name.split('.')[0] in inherited)
    assert count == pytest.approx(QUERIES[pair][1] * 1e6, abs=5e3)
    if 'dino' in pair:
        assert config.optim_wrapper.pop('constructor')
        assert config.optim_wrapper.paramwise_cfg.pop('inherited_lr_mult') == 0.1
    assert (config.model, config.optim_wrapper) == (plain.model, plain.optim_wrapper)
