"""Resolved configs: fair by construction, the same in memory and in the written file; and their hash."""

import json
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config

from mmdistill_dense.apps.recipes import compose
from mmdistill_dense.apps.suite import configs, plan
from mmdistill_dense.apps.suite.definition import Definition, load_suite
from mmdistill_dense.apps.suite.table import SuiteTable, as_markdown, row_settings
from mmdistill_dense.apps.suite.verdict import judge
from mmdistill_dense.config.resolve import load_model
from tests import toys
from tests.suite import tiny
from tests.suite.tiny import defined, run_of


def own_leaf(text: str = '') -> dict[str, Any]:
    """A leaf of the user's own, with further lines."""
    name = "__import__('mmdistill_dense').base('mmdistill_dense::_base_/recipes/toy_seg.py')"
    Path('mine.py').write_text(f"_base_ = {name}\nmodel = dict(distillers=dict(kd=dict(type='LogitKD')))\n{text}")
    return {'mine': {'config': 'mine.py'}}


def test_a_control_with_distillers_is_refused() -> None:
    """Methods by name: test_benchmarks.py."""
    own_leaf("default_scope = 'mmseg'")
    with pytest.raises(ValueError, match="control='.*mine.py' must be a DistillModel without distillers"):
        configs.control_config(defined(control='mine.py', methods={'kd': {}}))


MORE = r"methods.mine.config='mine.py' differs .* first weights: {}\. The gain"
NO_METHOD = r"methods.mine.config='mine.py' has no model.distillers and no weights .* second control"


@pytest.mark.parametrize(('text', 'options', 'output'), [
    ('optim_wrapper = dict(optimizer=dict(lr=1e-3))', {}, MORE.format('optim_wrapper.optimizer.lr')),
    ('model["student"] = dict(decode_head=dict(channels=7))', {}, MORE.format('model.student.decode_head')),
    ('train_cfg = dict(max_iters=9)', {}, MORE.format('train_cfg.max_iters')),
    ('compile = True', {}, MORE.format('compile')),
    ('model.clear()', {}, NO_METHOD),
    ('model.clear()', {'loss_weight': 3}, NO_METHOD),
])  # fmt: skip
def test_leaf_that_differs_in_more_or_in_nothing_is_refused(text: str, options: dict, output: str) -> None:
    own_leaf(text)
    definition = defined(methods={'mine': {'config': 'mine.py', 'options': options}})
    with pytest.raises(ValueError, match=output):
        configs.method_config(definition, definition.methods['mine'])


@pytest.mark.parametrize(('row', 'output'), [
    ({'options': {'optim_wrapper.type': 'X'}}, 'optim_wrapper.type would make the method differ from its control'),
    ({'options': {'model.student.x': 3}}, 'options.model.student.x would make the method differ'),
    ({'options': {'model.distillers.kdd.loss_weight': 3}}, "distiller 'kdd': unknown. Close: kd"),
    ({'options': {'pool_size': 3}}, r'does not say which distiller .*\. Write e\.g\. (kd|afdcd)\.pool_size'),
    ({'settings': 'best'}, r"methods.afdcd.*settings='best' is unknown; \w+ has 'published', 'auto'"),
    ({'settings': 3}, 'methods.afdcd.settings must be a text or None, got 3'),
])  # fmt: skip
def test_options_of_a_method_are_its_distillers(row: dict, output: str) -> None:
    with pytest.raises(ValueError, match=output):
        definition = defined(methods={'afdcd': row})
        configs.method_config(definition, definition.methods['afdcd'])


def test_options_of_a_method_may_be_short() -> None:
    for name, key in (('kd', ''), ('afdcd', 'afdcd.'), ('afdcd', 'model.distillers.afdcd.')):
        definition = defined(methods={name: {'options': {f'{key}loss_weight': 3}}})
        config = configs.method_config(definition, definition.methods[name])
        assert config.model.distillers[name].loss_weight == 3, key


@pytest.mark.parametrize(('options', 'output'), [
    ({'train_cgf.max_iters': 3}, "options: setting 'train_cgf': unknown. Close: train_cfg"),
    ({'model.distillers.kd.loss_weight': 3}, 'set it in the options of a method'),
    ({'model': {'distillers': {'kd': {'type': 'LogitKD'}}}}, 'set it in the options of a method'),
    ({'randomness.seed': 3}, 'options.randomness.seed: the suite sets it'),
    ({'randomness': {'seed': 3}}, 'options.randomness.seed: the suite sets it'),
    ({'work_dir': 'x'}, 'options.work_dir: the suite sets it'),
])  # fmt: skip
def test_options_of_all_runs_are_checked(options: dict, output: str) -> None:
    with pytest.raises(ValueError, match=output):
        configs.control_config(defined(options=options))


def test_a_config_of_the_user_may_name_its_module(tmp_path: Path) -> None:
    """As docs/own_method.md writes it."""
    imports = "custom_imports = dict(imports=['mmdistill_dense.engine.launch', 'json'], allow_failed_imports=False)"
    definition = defined(methods=own_leaf(imports))
    actual = configs.method_config(definition, definition.methods['mine'])
    assert actual.custom_imports.imports == ['mmdistill_dense.engine.launch', 'json']
    weights = (
        "load_from = 'x.pth'\nmodel['student'] = dict(backbone=dict(init_cfg=None))\n"
        "model['unlabelled'] = dict(data_root='more')\n"
    )
    definition = defined(methods=own_leaf(weights), options={'train_cfg.val_interval': 5})
    actual = configs.method_config(definition, definition.methods['mine'])
    assert (actual.load_from, actual.train_cfg.val_interval) == ('x.pth', 5)
    assert actual.model.student.backbone.init_cfg is None and actual.model.unlabelled == {'data_root': 'more'}
    definition = defined(methods=own_leaf(weights + "del model['distillers']\n"))
    assert not configs.method_config(definition, definition.methods['mine']).model.get('distillers')
    definition = defined(methods=own_leaf(f"{weights}model['inherit'] = ['neck']\n"))
    with pytest.raises(ValueError, match='model.inherit has no effect beside load_from: set load_from=None'):
        configs.method_config(definition, definition.methods['mine'])
    definition = defined(methods=own_leaf("model['inherit'] = ['neck']\n"))
    assert configs.method_config(definition, definition.methods['mine']).model.inherit == ['neck']


def test_written_config_is_the_one_that_is_run(tmp_path: Path) -> None:
    methods = {'kd': {}, 'afdcd': {'options': {'afdcd.pool_size': 2}}, **own_leaf()}
    options = {'param_scheduler.1.end': 77, 'train_cfg': {'val_interval': 5}}
    definition = defined(methods=methods, seeds=[3], options=options)
    for run in plan.runs(definition):
        config = plan.config_of(definition, run)
        plan.write_config(run, config, 'abc')
        file = Config.fromfile(run.file)
        rest_of_it = {key: value for key, value in file.to_dict().items() if key != 'distillers'}
        assert rest_of_it == {key: value for key, value in config.to_dict().items() if key != 'distillers'}, run.title
        assert configs.config_hash(file) == configs.config_hash(config)
    assert config.param_scheduler[1].end == 77 and config.train_cfg.val_interval == 5


def hash_of(name: str = 'kd', **changes: Any) -> str:
    definition = defined(**changes)
    return plan.hash_of(definition, run_of(definition, name))


def test_the_hash_changes_with_what_is_trained() -> None:
    hashes = {
        'as it is': hash_of(),
        'option': hash_of(iters=8),
        'distiller': hash_of(methods={'kd': {'options': {'loss_weight': 5}}}),
        'workers': hash_of(workers=1),
        'teacher': hash_of(teacher={'config': 'teachers/toy_seg', 'options': {'train_cfg.max_iters': 3}}),
        'seed of the teacher': hash_of(teacher={'config': 'teachers/toy_seg', 'seed': 5}),
        'own teacher': hash_of(teacher=None),
        'student': hash_of(options={'model.student.decode_head.channels': 12}),
        'control': hash_of('control'),
        'size of the teacher': hash_of(options={'model.teacher.scale': 2.0}),
        'padding of the teacher': hash_of(options={'model.teacher.fit': 'pad'}),
        'no options': hash_of(options={}),
        'first weights': hash_of(options={'load_from': 'a.pth'}),
    }
    assert len(set(hashes.values())) == len(hashes), hashes
    other = dict(seeds=[5], out='elsewhere', jobs=3, threads=2, checkpoint_every=1, title='x', metric='aAcc')
    assert hash_of() == hash_of(**other)
    assert hash_of('control') == hash_of('control', teacher=None), 'the control reads no teacher'
    assert hash_of() == hash_of(methods={'kd': {}, 'maskd': {}})
    definition = defined()
    control, kd = configs.control_config(definition), configs.method_config(definition, definition.methods['kd'])
    assert configs.config_hash(control, 'made') == configs.config_hash(control), 'how the teacher was made'
    assert configs.config_hash(kd, 'made') != configs.config_hash(kd)


@pytest.mark.parametrize(('variable', 'recipe', 'place'), [
    ('MMDISTILL_DATA', 'deeplabv3_r101_to_r18_camvid', '/somewhere/else/camvid'),
    ('MMDISTILL_WEIGHTS', 'deeplabv3plus_mobilenetv2_to_r18w16_camvid', '/somewhere/else/mobilenet_v2_w1.0'),
])  # fmt: skip
def test_hash_does_not_depend_on_where_files_lie(
    monkeypatch: pytest.MonkeyPatch, variable: str, recipe: str, place: str
) -> None:
    def hash_here() -> tuple[str, str]:
        config = Config.fromfile(compose.recipe_file(recipe))
        config.model.distillers = {'kd': {'type': 'LogitKD'}}
        teacher = load_model(config.model.teacher, 'model.teacher').model
        return configs.config_hash(config), json.dumps([config.train_dataloader.to_dict(), teacher], default=str)

    monkeypatch.delenv(variable, raising=False)
    hash_before, _ = hash_here()
    monkeypatch.setenv(variable, '/somewhere/else')
    hash_there, output = hash_here()
    assert place in output, 'the variable moves what the config names'
    assert hash_before == hash_there


def test_one_folder_of_data_and_weights_keeps_the_hashes_of_before(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ('MMDISTILL_DATA', 'MMDISTILL_WEIGHTS'):
        monkeypatch.setenv(variable, '/all/')
    actual = [configs.make_portable()(text) for text in ('/all/camvid', '/all', '/allx/y', 'y')]
    assert actual == ['weights/camvid', '/all', '/allx/y', 'y']


def test_boxes_of_another_test_set_have_labels_of_their_own() -> None:
    config = Config.fromfile(compose.recipe_file('retinanet_mobilenetv2_to_r18w16_bccd'))
    assert configs.with_test_set(config, {'ann_file': 'b.json'}).test_evaluator.ann_file.endswith('bccd/b.json')


def test_rates_are_scaled_with_the_ends_that_schedules_name() -> None:
    """Not those of the momentum, nor of another option of the optimizer."""
    ends = ({'type': 'PolyLR'}, {'type': 'CosineAnnealingMomentum'}, {'type': 'X', 'param_name': 'weight_decay'})
    schedules = [{**schedule, 'eta_min': 0.5} for schedule in ends]
    definition = defined(methods={'control_x2': {'rate': 2}}, options={'param_scheduler': schedules})
    before = configs.control_config(definition)
    config = configs.method_config(definition, definition.methods['control_x2'])
    assert config.optim_wrapper.optimizer.lr == 2 * before.optim_wrapper.optimizer.lr
    assert [schedule.eta_min for schedule in config.param_scheduler] == [1.0, 0.5, 0.5]
    definition = defined(methods={'control_x2': {'rate': 2}}, options={'optim_wrapper.optimizer': {'_delete_': True}})
    with pytest.raises(ValueError, match='methods.control_x2.rate: optim_wrapper.optimizer has no lr'):
        configs.method_config(definition, definition.methods['control_x2'])


def test_workers_apply_to_every_loader() -> None:
    config = configs.control_config(defined(workers=0))
    assert [config[name].num_workers for name in configs.LOADERS] == [0, 0, 0]
    assert not any(config[name].persistent_workers for name in configs.LOADERS)
    for persistent in (False, True):  # as it was
        of_old = defined(workers=2, options={'train_dataloader.persistent_workers': persistent})
        assert configs.control_config(of_old).train_dataloader.persistent_workers is persistent
    assert config.default_hooks.checkpoint.max_keep_ckpts == 2
    assert config.default_hooks.checkpoint.interval == 2
    assert configs.control_config(defined(checkpoint_every=None)).default_hooks.checkpoint.interval == 450


# Rows with pictures without labels, or with options of the run


def with_pictures(row: dict[str, Any] | None = None, **changes: Any) -> Definition:
    more = {'method': 'kd', 'unlabelled': {'data_root': toys.picture_folder(6), **(row or {})}}
    return load_suite(tiny.write(Path(), **{'methods': {'kd': {}, 'more': more}, **changes}))


def test_a_row_may_differ_in_its_pictures_alone() -> None:
    definition = with_pictures()
    kd, more = (configs.method_config(definition, definition.methods[name]).to_dict() for name in ('kd', 'more'))
    assert list(configs.differences(kd, more)) == ['model.unlabelled']
    assert more['model']['unlabelled'] == {'data_root': toys.picture_folder(6)}

    def hash_with(name: str = 'more', **row: Any) -> str:
        definition = with_pictures(row)
        return plan.hash_of(definition, run_of(definition, name))

    assert hash_with('kd') == hash_with('kd', ratio=3) != hash_with() == hash_with(workers=2)
    assert len({hash_with(), hash_with(ratio=3), hash_with(ann_file='list.txt')}) == 3
    listed = Path('list.txt').absolute()
    assert len({hash_with(ann_file=str(listed)) for text in 'ab' if listed.write_text(text)}) == 2, 'other pictures'


def test_rows_may_have_a_length_of_their_own() -> None:
    """The rest of their config is the control's; the table tells what differs."""
    twice = {'train_cfg.max_iters': 16, 'param_scheduler.1': {'end': 16}}
    rows = {
        'alone_2x': {'options': twice},
        'kd_2x': {'method': 'kd', 'options': {**twice, 'loss_weight': 3}, 'rate': 2},
        'fewer': {'options': {'train_dataloader': {'dataset': {'num_images': 3}}}},
    }
    loop = {'_delete_': True, 'type': 'IterBasedTrainLoop', 'max_iters': 8, 'val_interval': 4}
    definition = with_pictures(methods=rows, options={'train_cfg': loop})
    control, alone, method, fewer = (
        plan.config_of(definition, run_of(definition, name)) for name in ('control', *rows)
    )
    changed = sorted(configs.differences(control.to_dict(), alone.to_dict()))
    assert changed == ['param_scheduler.1.end', 'train_cfg.max_iters', 'work_dir'] and alone.train_cfg.max_iters == 16
    assert method.train_cfg == alone.train_cfg and method.model.distillers.kd.loss_weight == 3
    changed = sorted(configs.differences(control.to_dict(), fewer.to_dict()))
    assert changed == ['train_dataloader.dataset.num_images', 'work_dir']
    hashes = {plan.hash_of(definition, run_of(definition, name)) for name in ('control', *rows)}
    assert len(hashes) == 4 and not definition.methods['fewer'].distils and definition.methods['kd_2x'].distils
    words = row_settings(definition.methods['kd_2x'])
    assert words.startswith(' with `train_cfg.max_iters=16 ')
    assert words.endswith('loss_weight=3`, 2 times the learning rate')
    lines = as_markdown(SuiteTable(definition, judge([]))).splitlines()
    assert '- Other length or training set than the student alone: kd_2x: no gain of a method alone.' in lines
