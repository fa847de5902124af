"""Guards of a config: what reaches more than it is meant for, keeps what another method had, or has no effect."""

import logging
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import mmdet.models  # noqa: F401
import mmseg.models  # noqa: F401
import pytest
from mmengine.config import Config
from torch import nn

from mmdistill_dense.config.resolve import load_model
from mmdistill_dense.guards.config import (
    check_class_weights,
    check_custom_keys,
    check_laid_over,
    check_retyped,
    check_top_level_distillers,
)
from mmdistill_dense.guards.runner import check_file
from mmdistill_dense.networks.building import build_network
from tests import toys

HEAD = dict(lr_mult=10.0)


class Network(nn.Module):
    """A student with one distiller of this name."""

    def __init__(self, name, distiller):
        super().__init__()
        self.backbone, self.decode_head = nn.Linear(2, 2), nn.Linear(2, 2)
        self.distillers = nn.ModuleDict({name: distiller or nn.Linear(2, 2)})


def look(name, keys, distiller=None):
    config = Config(dict(optim_wrapper=dict(paramwise_cfg=dict(custom_keys=keys))))
    check_custom_keys(SimpleNamespace(cfg=config, logger=logging.getLogger('keys')), Network(name, distiller))


def test_a_name_that_a_students_key_hits_is_refused():
    for name, key in (('neck_head_x', 'head'), ('decode_head_kd', 'decode_head'), ('head', 'head')):
        with pytest.raises(ValueError) as error:
            look(name, {key: HEAD})
        message = str(error.value)
        assert f"model.distillers.{name}: its name contains '{key}'" in message and "{'lr_mult': 10.0}" in message
        assert f"custom_keys['distillers.{name}']" in message


@pytest.mark.parametrize(('name', 'keys'), [
    ('kd', dict(head=HEAD)),  # another name
    ('neck_head_x', {'head': HEAD, 'distillers.neck_head_x': dict(lr_mult=1.0)}),  # said
    ('neck_head_x', {'head': HEAD, 'distillers': HEAD}),  # said of all
    ('afdcd', dict(afdcd=HEAD)),  # for the distiller
    ('neck_head_x', {}),
    ('kd', {'model.student': HEAD}),
    ('kd', {'x': HEAD}),
])  # fmt: skip
def test_keys_that_are_meant_are_left_alone(name, keys, caplog):
    look(name, keys)
    assert not caplog.text


def test_parts_that_are_called_like_the_students_are_told(caplog):
    look('pcd', dict(head=HEAD), nn.ModuleDict(dict(head=nn.Linear(2, 2))))
    (message,) = caplog.messages
    assert "custom_keys['head']={'lr_mult': 10.0} also applies to parts of distillers" in message
    assert 'distillers.pcd.head.weight' in message and "custom_keys['distillers']" in message


def test_a_run_is_refused_at_its_start(tmp_path):
    mimic = dict(head_mimic=dict(type='MaskedMimic', student_tap='backbone[3]'))
    model = toys.model_config(toys.seg_net('fcn'), toys.seg_teacher('fcn'), mimic)
    with pytest.raises(ValueError, match=r"model\.distillers\.head_mimic: its name contains 'head'"):
        toys.train(tmp_path, model, iters=1, optim_wrapper=dict(paramwise_cfg=dict(custom_keys=dict(head=HEAD))))


def test_a_key_with_the_prefix_of_a_config_is_refused():
    """It is in no name, so it would have no effect without a word."""
    for key, right in (('student.backbone', 'backbone'), ('model.distillers.kd', 'distillers.kd')):
        with pytest.raises(ValueError, match=f"custom_keys\\['{key}'\\] is in no name of a parameter: write '{right}'"):
            look('kd', {key: HEAD})


BASE = "model = dict(distillers=dict(cwd=dict(type='CWD', loss_weight=3.0), kd=dict(type='LogitKD')))\n"
OPTIONS = "distillers = dict(cwd=dict(type='CWD', loss_weight=3.0))\n"
CHANGE = 'distillers = dict(cwd=dict(loss_weight=50.0))\n'


def written(folder: Path, text: str, base: str = BASE) -> Config:
    (folder / 'base.py').write_text(base)
    (folder / 'mine.py').write_text(f"_base_ = './base.py'\n{text}\n")
    return Config.fromfile(folder / 'mine.py')


def test_another_method_under_the_same_name_is_refused(tmp_path: Path) -> None:
    message = r'mine.py: model.distillers.cwd=.* would keep options .*: loss_weight=3.0.*_delete_'
    for text in ("dict(distillers=dict(cwd=dict(type='LogitKD')))", "{'distillers': {'cwd': {'type': 'LogitKD'}}}"):
        config = written(tmp_path, f'model = {text}')
        assert config.model.distillers.cwd == {'type': 'LogitKD', 'loss_weight': 3.0}  # what mmengine makes of it
        with pytest.raises(ValueError, match=message):
            check_laid_over(config)


@pytest.mark.parametrize('text', [
    "model = dict(distillers=dict(_delete_=True, cwd=dict(type='LogitKD')))",
    "model = dict(distillers=dict(cwd=dict(type='LogitKD', _delete_=True)))",
    "model = dict(distillers=dict(cwd=dict(type='CWD', loss_weight=1.0)))",
    'model = dict(distillers=dict(cwd=dict(loss_weight=1.0)))',
    "model = dict(distillers=dict(mine=dict(type='LogitKD')))",
    'x = 1',
])  # fmt: skip
def test_what_changes_options_alone_is_not(text: str, tmp_path: Path) -> None:
    check_laid_over(written(tmp_path, text))
    check_laid_over(Config(dict(model=dict(distillers=dict(cwd=dict(type='CWD'))))))  # without a file


@pytest.mark.parametrize(('change', 'kept_method'), [
    ({'type': 'DIST'}, r"cwd\.type='DIST' would keep .* of CWD: .*Name a config of DIST, or add .*cwd._delete_=True"),
    ({'type': 'DIST', 'loss_weight': 1.0}, ''),
    ({'loss_weight': 1.0}, ''),
    ({'type': 'CWD'}, ''),
    ({'type': 'mmdistill_dense.CWD'}, ''),
])  # fmt: skip
def test_another_method_on_the_command_line_keeps_no_options(change: dict, kept_method: str, tmp_path: Path) -> None:
    config = written(tmp_path, 'x = 1')
    config.merge_from_dict({f'model.distillers.cwd.{key}': value for key, value in change.items()})
    with pytest.raises(ValueError, match=kept_method) if kept_method else nullcontext():
        check_retyped(config)


def test_one_option_that_is_kept_is_enough(tmp_path: Path) -> None:
    config = written(tmp_path, "model = dict(distillers=dict(cwd=dict(student_tap='x')))")
    config.merge_from_dict({'model.distillers.cwd': {'type': 'DIST', 'loss_weight': 1.0}})
    with pytest.raises(ValueError, match='would keep options of CWD: student_tap'):
        check_retyped(config)
    config.merge_from_dict({'model.distillers.cwd': {'type': 'DIST', 'student_tap': 'x', '_delete_': True}})
    check_retyped(config)
    for value in ("dict(_delete_=True, kd=dict(type='LogitKD'))", '[1]', 'None'):  # left to the model
        check_retyped(written(tmp_path, f'model = dict(distillers={value})', 'x = 1'))


@pytest.mark.parametrize(('base', 'text', 'out'), [
    (BASE + OPTIONS, CHANGE, r'model = dict\(distillers=dict\(cwd=dict\(loss_weight=50.0\)\)\)'),
    (BASE + OPTIONS, "distillers = dict(_delete_=True, kd=dict(type='LogitKD'))", r'kd=dict\(type='),
    (OPTIONS, f'{CHANGE}model = dict(distillers=_base_.distillers)', r'_base_\.distillers\.cwd\.loss_weight = 50.0 ab'),
    (BASE + OPTIONS, 'model = dict(distillers=dict(cwd=dict(loss_weight=50.0)))', ''),
    (BASE, 'distillers = dict(cwd=dict(loss_weight=50.0))\nmodel = dict(distillers=distillers)', ''),
    (OPTIONS, '_base_.distillers.cwd.loss_weight = 50.0\nmodel = dict(distillers=_base_.distillers)', ''),
    ('x = 1\n', "distillers = dict(cwd=dict(type='CWD'))\nmodel = dict(distillers=distillers)", ''),
    (OPTIONS, CHANGE, ''),
])  # fmt: skip
def test_distillers_beside_those_of_the_base_are_refused(base: str, text: str, out: str, tmp_path: Path) -> None:
    config = written(tmp_path, text, base)
    message = rf'mine.py: distillers\..* has no effect.*{out}'
    with pytest.raises(ValueError, match=message) if out else nullcontext():
        check_top_level_distillers(config)


def test_the_carrier_changed_on_the_command_line_is_refused(tmp_path: Path) -> None:
    config = written(tmp_path, 'model = dict(distillers=_base_.distillers)', OPTIONS)
    check_top_level_distillers(config)
    config.merge_from_dict({'distillers.cwd.loss_weight': 5.0})
    with pytest.raises(ValueError, match=r'top-level distillers was changed.*--cfg-options model\.distillers\.<name>'):
        check_top_level_distillers(config)
    config.merge_from_dict({'model.distillers.cwd.loss_weight': 5.0})
    check_top_level_distillers(config)


# Weights of classes

CE = dict(type='CrossEntropyLoss')
SIGMOID = dict(CE, use_sigmoid=True)
QUERIES = dict(type='SideAdapterCLIPHead', train_cfg=dict(assigner=dict(type='HungarianAssigner')))
# A head of 3 classes by key and config, its loss, and the numbers of weights that it takes
LOSSES = {
    'pixels': ('decode_head', {}, dict(loss_decode=CE), {3}),
    'pixels, ohem': ('decode_head', {}, dict(loss_decode=dict(type='OhemCrossEntropy')), {3}),
    'pixels, tversky': ('auxiliary_head', {}, dict(loss_decode=dict(type='TverskyLoss')), {3}),
    'pixels, sigmoid': ('decode_head', {}, dict(loss_decode=SIGMOID), {1}),
    'pixels, binary': ('decode_head', dict(out_channels=1), dict(loss_decode=SIGMOID), {1}),
    'classes of queries': ('decode_head', QUERIES, dict(loss_decode=CE), {3, 4}),
    'queries': ('decode_head', {}, dict(loss_cls=CE), {4}),
    'anchors': ('bbox_head', {}, dict(loss_cls=CE), {4}),
    'anchors, sigmoid': ('bbox_head', {}, dict(loss_cls=SIGMOID), {1, 3}),
    'regions': ('roi_head.bbox_head', {}, dict(loss_cls=CE), {4}),
    'regions, sigmoid': ('roi_head.bbox_head', {}, dict(loss_cls=SIGMOID), {1, 3, 4}),
}


@pytest.mark.parametrize('count', [1, 2, 3, 4, 5])
@pytest.mark.parametrize(('path', 'head', 'losses', 'allowed'), LOSSES.values(), ids=LOSSES)
def test_class_weights_are_as_many_as_scores(path, head, losses, allowed, count):
    ((name, loss),) = losses.items()
    model = dict(head, num_classes=3, **{name: dict(loss, class_weight=[1.0] * count)})
    for part in reversed(path.split('.')):
        model = {part: model}
    words = rf'model\.student\.{path}\.{name}\.class_weight holds {count} weights, {path} has num_classes=3: give'
    with nullcontext() if count in allowed else pytest.raises(ValueError, match=words):
        check_class_weights('model.student', model)


def test_a_part_that_predicts_must_be_in_a_tested_file() -> None:
    """What only training needs may lack, and so may a head of a file that a training starts with."""
    network = build_network(load_model(toys.seg_net(), 'model'))
    weights = network.state_dict()
    auxiliary, head = (
        {name: weights[name] for name in weights if not name.startswith(part)} for part in ('aux', 'dec')
    )
    assert not [*check_file(network, auxiliary, 'a.pth', tests=True)] and [*check_file(network, dict(head), 'a.pth')]
    with pytest.raises(ValueError, match=r'a\.pth holds nothing of decode_head .*: random weights would be tested'):
        [*check_file(network, head, 'a.pth', tests=True)]
