"""Rows that start elsewhere than the control: what they are made of, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmdistill_dense.__main__ import main
from mmdistill_dense.apps.suite import configs, plan, preflight
from mmdistill_dense.apps.suite import plan as run_configs
from mmdistill_dense.apps.suite.actions import find
from mmdistill_dense.apps.suite.definition import Definition, load
from mmdistill_dense.utils.reproducible import seed_everything
from tests import toys
from tests.suite import tiny
from tests.suite.tiny import run_of

SHORT = {'train_cfg.max_epochs': 2, 'train_dataloader.dataset.num_images': 8, 'train_dataloader.batch_size': 4}
PCD = {'pretrain': 'pcd/toy_pretrain', 'options': SHORT}
STARTS = {'pre': PCD, 'file': {'checkpoint': '{{$TOY_FOLDER:nowhere}}/toy.pth', 'prefix': 'backbone.'}}
ROWS = {'kd': {}, 'started': {'start': 'pre'}, 'both': {'method': 'kd', 'start': 'pre'}, 'given': {'start': 'file'}}
CITYSCAPES = {'control': 'deeplabv3_r101_to_r18_cityscapes', 'teacher': None, 'options': None}


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint of a toy student with random weights, where the definition looks for it."""
    monkeypatch.setenv('TOY_FOLDER', str(tmp_path))
    init_default_scope('mmseg')
    with toys.unformatted():
        network = MODELS.build(configs.control_config(defined()).model)
    torch.save({'state_dict': network.state_dict()}, tmp_path / 'toy.pth')
    return tmp_path / 'toy.pth'


def defined(**changes: Any) -> Definition:
    return load(tiny.write(Path(), **{'seeds': [0, 1], 'starts': STARTS, 'methods': ROWS, **changes}))


def config_of(title: str, **changes: Any) -> Config:
    definition = defined(**changes)
    return plan.config_of(definition, run_of(definition, title))


@pytest.mark.parametrize(
    ('changes', 'said'),
    [
        ({'methods': {'x': {'start': 'prr'}}}, r"methods.x.start: start 'prr': unknown. Close: pre"),
        ({'methods': {'kd': {'start': 'pre'}}}, 'methods.kd: write `method: kd` for kd from that start, or rename'),
        ({'methods': {'x': {'start': 'pre', 'options': {'a': 1}}}}, 'methods.x.options: a row without `method` has no'),
        ({'starts': {'pre': {}}}, 'starts.pre: needs exactly one of `pretrain`'),
        ({'starts': {'pre': {**PCD, 'prefix': 'x'}}}, 'starts.pre.prefix: cannot be combined with `pretrain`'),
        ({'starts': {'pre': {'checkpoint': 'x', 'seed': 3}}}, 'starts.pre.seed: cannot be combined with `checkpoint`'),
        (
            {'starts': {'pre': {**PCD, 'seed': 3, 'per_seed': True}}},
            'starts.pre.per_seed: true means one pre-training per seed',
        ),
        ({'starts': {'random': PCD}}, "starts.random: a name .* and 'random' is built in"),
        ({'starts': {'pre': {**PCD, 'option': {}}}}, 'starts.pre.option: unknown key. Close: options'),
        ({'grid': {'started': {'tau': [1, 2]}, 'seeds': [7]}}, 'grid.started: the row has no distillers'),
    ],
)
def test_what_cannot_work_is_named(changes: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        defined(**changes)


def test_missing_pretraining_is_named_with_close_ones() -> None:
    with pytest.raises(FileNotFoundError, match='starts.pre.pretrain: .*pcd/toy_pretrian.* Close: .*pcd/toy_pretrain'):
        defined(starts={'pre': {'pretrain': 'toy_pretrian'}}, methods={'kd': {}})


def test_students_wait_for_the_one_pretraining_that_they_share() -> None:
    runs = {run.title: run for run in plan.runs(defined())}
    assert list(runs)[:2] == ['teacher', 'pretrain/pre seed 0']
    teacher, pre = runs['teacher'].folder, Path('out/pretrain/pre/seed0')
    assert runs['pretrain/pre seed 0'].folder == pre and runs['pretrain/pre seed 0'].after == ()
    assert runs['started seed 0'].after == runs['started seed 1'].after == (pre,)
    assert runs['both seed 1'].after == (teacher, pre)
    assert runs['control seed 0'].after == runs['given seed 1'].after == ()


def test_each_seed_may_have_its_own_pretraining_in_the_search_too() -> None:
    starts = {**STARTS, 'pre': {**PCD, 'per_seed': True}}
    definition = defined(starts=starts, grid={'both': {'tau': [1, 2]}, 'seeds': [7]})
    runs = {run.title: run for run in plan.runs(definition)}
    assert {title for title in runs if title.startswith('pretrain')} == {
        f'pretrain/pre seed {seed}' for seed in (0, 1, 7)
    }
    assert runs['started seed 1'].after == (Path('out/pretrain/pre/seed1'),)
    assert runs['both tau=1 seed 7'].after == (Path('out/teacher'), Path('out/pretrain/pre/seed7'))
    assert plan.config_of(definition, runs['pretrain/pre seed 7']).randomness.seed == 7
    assert len({plan.hash_of(definition, runs[f'started seed {seed}']) for seed in (0, 1)}) == 1


def test_start_that_no_row_takes_is_not_trained() -> None:
    assert not [run for run in plan.runs(defined(methods={'kd': {}})) if run.kind == plan.PRETRAIN]


def test_pretraining_comes_along_and_has_a_name_of_its_own() -> None:
    definition = defined()
    titles = [run.title for run in preflight.select(definition, ['both'], [1])]
    assert titles == ['teacher', 'pretrain/pre seed 0', 'both seed 1']
    assert [run.title for run in preflight.select(definition, ['pretrain/pre'])] == ['pretrain/pre seed 0']
    assert find(definition, 'pretrain/pre', 0, None).kind == plan.PRETRAIN


def test_pretraining_for_all_seeds_is_taken_whatever_the_seeds() -> None:
    titles = [run.title for run in preflight.select(defined(seeds=[3, 4]), ['pretrain/pre', 'control'], [4])]
    assert titles == ['pretrain/pre seed 0', 'control seed 4']
    own = defined(seeds=[3, 4], starts={**STARTS, 'pre': {**PCD, 'per_seed': True}})
    assert [run.title for run in preflight.select(own, ['pretrain/pre'], [4])] == ['pretrain/pre seed 4']


def test_forgotten_start_is_listed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(plan, 'hash_of', lambda *_: 'abc')
    defined(methods={'both': {'method': 'kd', 'start': 'pre'}})
    assert main(['suite', 'list', 'tiny.yaml']) == 0
    assert 'starts that no row uses: file\n' in capsys.readouterr().out
    defined()
    assert main(['suite', 'list', 'tiny.yaml']) == 0 and 'no row uses' not in capsys.readouterr().out


def test_nothing_differs_from_the_control_but_the_start(given: Path) -> None:
    control = config_of('control seed 0').to_dict()
    for name in ('started', 'given'):
        config = config_of(f'{name} seed 0').to_dict()
        config['work_dir'] = control['work_dir']
        assert list(configs.differences(config, control)) == ['model.student.backbone']
        assert list(config['model']['student']['backbone']) == ['init_cfg']
    plain, both = (config_of(f'{name} seed 0').model for name in ('kd', 'both'))
    assert both.student.pop('backbone') and both.to_dict() == plain.to_dict()


def test_student_reads_the_last_file_of_its_pretraining() -> None:
    tiny.write_result(Path('out/pretrain/pre/seed0'), 0, checkpoint='epoch_2.pth')
    loaded = config_of('both seed 1').model.student.backbone.init_cfg[-1]
    assert loaded == dict(type='Pretrained', checkpoint='out/pretrain/pre/seed0/epoch_2.pth', prefix='backbone.')


def test_first_weights_are_the_controls_but_for_the_backbone(given: Path) -> None:
    found = {}
    for name in ('control', 'given'):
        config = config_of(f'{name} seed 1')
        with toys.unformatted():
            init_default_scope('mmseg')
            seed_everything(1)
            network = MODELS.build(config.model)
            network.init_weights()
            found[name] = network.state_dict(), torch.rand(3)
    (control, first), (started, second) = found['control'], found['given']
    differing = toys.differing(control, started)
    assert differing and all(name.startswith('backbone.') for name in differing)
    assert torch.equal(first, second), 'dropout would differ'
    file = torch.load(given)['state_dict']
    assert not [n for n, value in file.items() if n.startswith('backbone.') and not torch.equal(value, started[n])]


def hash_of(name: str, **changes: Any) -> str:
    definition = defined(**changes)
    return plan.hash_of(definition, run_of(definition, f'{name} seed 1'))


def test_hash_covers_how_the_start_was_made() -> None:
    def starts(**options: Any) -> dict:
        return {'starts': {**STARTS, 'pre': {**PCD, **options}}}

    hashes = {
        'control': hash_of('control'),
        'as it is': hash_of('started'),
        'with a method': hash_of('both'),
        'options': hash_of('started', **starts(options={**SHORT, 'train_cfg.max_epochs': 3})),
        'seed': hash_of('started', **starts(seed=1)),
        'each seed': hash_of('started', **starts(per_seed=True)),
        'file': hash_of('given'),
        'another file': hash_of('given', starts={**STARTS, 'file': {'checkpoint': 'toy.pth', 'prefix': 'backbone.'}}),
        'another prefix': hash_of('given', starts={**STARTS, 'file': {'checkpoint': STARTS['file']['checkpoint']}}),
    }
    assert len(set(hashes.values())) == len(hashes), hashes


def test_hash_leaves_out_where_files_lie(given: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = hash_of('started'), hash_of('given'), hash_of('control')
    monkeypatch.setenv('TOY_FOLDER', 'elsewhere')
    tiny.write_result(Path('elsewhere/pretrain/pre/seed0'), 0, checkpoint='epoch_2.pth')
    again = {'out': 'elsewhere', 'seeds': [1]}
    assert (
        hash_of('started', **again),
        hash_of('given', **again),
        hash_of('control', starts={}, methods={'kd': {}}),
    ) == before


def test_written_config_is_the_one_that_is_run(given: Path) -> None:
    definition = defined()
    for title in ('pretrain/pre seed 0', 'started seed 1', 'both seed 1', 'given seed 1'):
        run = run_of(definition, title)
        config = plan.config_of(definition, run)
        run_configs.write_configs(definition, run, config)
        file = Config.fromfile(run.folder / 'run.py')
        assert configs.config_hash(file) == configs.config_hash(config), title
        assert file.model.to_dict() == config.model.to_dict() and file.work_dir == str(run.folder), title


def test_pretraining_is_saved_by_its_own_epochs() -> None:
    definition = defined(checkpoint_every=300, workers=0)
    config = plan.config_of(definition, run_of(definition, 'pretrain/pre seed 0'))
    assert config.default_hooks.checkpoint.interval == 2 and config.default_hooks.checkpoint.max_keep_ckpts == 2
    assert config.train_dataloader.num_workers == 0 and config.train_cfg.max_epochs == 2


# Before the first run


def check(definition: Definition, *titles: str) -> None:
    with toys.unformatted():
        preflight.check(definition, [run_of(definition, title) for title in titles])


def test_file_of_another_network_is_refused_with_the_names(given: Path) -> None:
    check(defined(), 'given seed 0')
    state = torch.load(given)['state_dict']
    state['backbone.layer1.0.conv3.weight'] = state.pop('backbone.layer1.0.conv2.weight')
    torch.save({'state_dict': state}, given)
    said = r'starts.file.checkpoint: .*toy.pth.* 1 missing, 1 unexpected.*\n.*layer1.0.conv2.weight\n.*layer1.0.conv3'
    with pytest.raises(ValueError, match=said):
        check(defined(), 'given seed 0')


def test_forgotten_prefix_is_told(given: Path) -> None:
    starts = {'pre': PCD, 'file': {'checkpoint': str(given)}}
    with pytest.raises(ValueError, match=r'holds backbone\.\*: set prefix: backbone\.\).*missing'):
        check(defined(starts=starts), 'given seed 0')


def test_tensors_of_the_backbone_itself_are_taken(given: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transformer's position embedding is no module."""
    kind = type(MODELS.build(configs.control_config(defined()).model).backbone)
    build = kind.__init__

    def embedded(self: Any, *args: Any, **options: Any) -> None:
        build(self, *args, **options)
        self.pos_embed = torch.nn.Parameter(torch.zeros(3))

    monkeypatch.setattr(kind, '__init__', embedded)
    state = {k.removeprefix('backbone.'): v for k, v in torch.load(given)['state_dict'].items() if 'backbone' in k}
    starts = {'pre': PCD, 'file': {'checkpoint': str(given)}}
    torch.save({**state, 'pos_embed': torch.ones(3), 'fc.weight': torch.zeros(9, 64)}, given)
    check(defined(starts=starts), 'given seed 0')
    torch.save(state, given)
    with pytest.raises(ValueError, match=r'1 missing.*\n.*pos_embed'):
        check(defined(starts=starts), 'given seed 0')


@pytest.mark.parametrize('prefix', [None, 'backbone.'])
def test_file_that_mmengine_would_not_look_into_is_refused(given: Path, prefix: str | None) -> None:
    state = {k: v for k, v in torch.load(given)['state_dict'].items() if k.startswith('backbone.')}
    torch.save({'model': state if prefix else {k.removeprefix('backbone.'): v for k, v in state.items()}}, given)
    starts = {'pre': PCD, 'file': {'checkpoint': str(given), **({'prefix': prefix} if prefix else {})}}
    said = r"starts.file.checkpoint: .*toy.pth' has its tensors below `model`, .* Save them as {'state_dict'"
    with pytest.raises(ValueError, match=said):
        check(defined(starts=starts), 'given seed 0')


def test_missing_file_is_named_with_its_key() -> None:
    with pytest.raises(FileNotFoundError, match=r"starts.file.checkpoint='nowhere/toy.pth': no such file"):
        check(defined(), 'given seed 0')


def test_pretraining_of_another_backbone_is_refused_before_it_is_run(given: Path) -> None:
    check(defined(), 'started seed 0')
    wide = {**PCD, 'options': {**SHORT, 'model.student.backbone.base_channels': 16}}
    with pytest.raises(ValueError, match=r'starts.pre.pretrain: the backbone of toy_pretrain.py .* of another shape'):
        check(defined(starts={**STARTS, 'pre': wide}), 'started seed 0')


@pytest.mark.parametrize(
    ('options', 'said'),
    [
        (
            {'train_cfg.max_epoch': 3},
            "starts.pre.options.train_cfg.max_epoch: option of train_cfg 'max_epoch': unknown",
        ),
        ({'randomness.seed': 3}, 'starts.pre.options.randomness.seed: the suite sets it'),
        ({'train_cgf.max_epochs': 3}, "starts.pre.options: setting 'train_cgf': unknown. Close: train_cfg"),
    ],
)
def test_options_of_a_pretraining_are_checked(options: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check(defined(starts={**STARTS, 'pre': {**PCD, 'options': options}}), 'pretrain/pre seed 0')


def test_files_of_a_pretraining_are_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match=r"model\.teacher\.checkpoint='work_dirs/demo/teacher/iter_700.pth'"):
        check(defined(), 'pretrain/pre seed 0')
    monkeypatch.setenv('MMDISTILL_DATA', str(tmp_path))
    (tmp_path / 'camvid/images/train').mkdir(parents=True)
    small = {**STARTS, 'pre': {'pretrain': 'pcd/r18w16_from_mobilenetv2_small'}}
    with pytest.raises(FileNotFoundError, match=r'train_dataloader\.dataset\.data_prefix\.1 = .*coco_mini/train2017'):
        check(defined(starts=small), 'pretrain/pre seed 0')


# Parts of the teacher


def test_inherited_parts_are_a_start_as_well() -> None:
    starts = {'heads': {'inherit': [['decode_head.conv_seg', 'decode_head.conv_seg']]}}
    rows = {'heads': {'start': 'heads'}, 'both': {'method': 'kd', 'start': 'heads'}, 'kd': {}}
    definition = defined(starts=starts, methods=rows)
    control = plan.config_of(definition, run_of(definition, 'control seed 0')).model.to_dict()
    for name in ('heads', 'both'):
        run = run_of(definition, f'{name} seed 0')
        model = plan.config_of(definition, run).model.to_dict()
        assert run.after == (Path('out/teacher'),) and model['inherit'] == starts['heads']['inherit']
        found = set(configs.differences(model, control)) - {'distillers'}
        assert found == {'inherit', 'teacher.checkpoint'}, 'the suite trains the teacher'
    assert len({plan.hash_of(definition, run_of(definition, f'{name} seed 0')) for name in ('control', *rows)}) == 4


@pytest.mark.parametrize(
    ('options', 'said'),
    [
        ({'load_from': 'x.pth'}, r"load_from='x.pth' of the control would replace it"),
        (
            {'model.inherit': [['decode_head', 'decode_head']]},
            r"model.inherit=\['decode_head'\] of the control and the",
        ),
    ],
)
def test_inherited_parts_that_would_come_to_nothing_are_refused(options: dict, said: str) -> None:
    starts = {'heads': {'inherit': [['decode_head.conv_seg', 'decode_head.conv_seg']]}}
    changes = {**tiny.content()['options'], **options}
    definition = defined(starts=starts, methods={'heads': {'start': 'heads'}}, options=changes)
    with pytest.raises(ValueError, match=rf"tiny.yaml: methods.heads: start 'heads': {said}"):
        plan.hash_of(definition, run_of(definition, 'heads seed 0'))


@pytest.mark.parametrize('pairs', [['neck'], [['neck']], [[1, 2]]])
def test_inherited_parts_are_pairs(pairs: list) -> None:
    with pytest.raises(ValueError, match='starts.heads.inherit: model.inherit must be a list of'):
        defined(starts={'heads': {'inherit': pairs}}, methods={'kd': {}})


# Controls whose backbone is pretrained


def test_given_file_replaces_pretrained_weights_and_random_ones_drop_them(given: Path) -> None:
    rows = {'given': {'start': 'file'}, 'scratch': {'start': 'random'}, 'cwd': {'method': 'cwd', 'start': 'random'}}
    before = config_of('control seed 0', **CITYSCAPES, methods=rows).model.student
    assert 'backbone' not in before and 'pretrained' not in before, 'the zoo config has it'
    student = config_of('given seed 0', **CITYSCAPES, methods=rows).model.student
    assert student.pretrained is None
    assert student.backbone.init_cfg == dict(type='Pretrained', checkpoint=str(given), prefix='backbone.')
    for name in ('scratch', 'cwd'):
        student = config_of(f'{name} seed 0', **CITYSCAPES, methods=rows).model.student
        assert student.pretrained is None and student.backbone.init_cfg is None


def test_random_start_of_a_random_control_is_refused() -> None:
    definition = defined(methods={'scratch': {'start': 'random'}})
    run = run_of(definition, 'scratch seed 0')
    for ask in (plan.config_of, plan.hash_of):
        with pytest.raises(ValueError, match="methods.scratch: start 'random': the backbone of the control is random"):
            ask(definition, run)


def test_random_start_of_a_frozen_backbone_is_refused() -> None:
    changes = {**CITYSCAPES, 'options': {'model.student.backbone': {'frozen_stages': 1}}}
    with pytest.raises(ValueError, match=r'methods.scratch: .* backbone.frozen_stages=1, which keeps random weights'):
        config_of('scratch seed 0', **changes, methods={'scratch': {'start': 'random'}})


def test_random_start_of_a_backbone_that_is_frozen_by_default_is_refused() -> None:
    """mmdet's ResNet evaluates its norms where the config does not say anything."""
    student = {
        'type': 'mmdet.ResNet',
        'depth': 18,
        '_delete_': True,
        'init_cfg': {'type': 'Pretrained', 'checkpoint': 'x'},
    }
    changes = {**CITYSCAPES, 'options': {'model.student.backbone': student}}
    with pytest.raises(ValueError, match=r'methods.scratch: .* backbone.norm_eval=True, which keeps random weights'):
        config_of('scratch seed 0', **changes, methods={'scratch': {'start': 'random'}})


@pytest.mark.parametrize(
    ('own', 'kept'),
    [
        ([{'type': 'Kaiming', 'layer': 'Conv2d'}, {'type': 'Pretrained', 'checkpoint': 'x'}], ['Kaiming']),
        ([{'type': 'Pretrained', 'checkpoint': 'x'}], []),
        ({'type': 'Kaiming', 'layer': 'Conv2d'}, ['Kaiming']),
    ],
)
def test_backbone_draws_what_the_controls_draws(own: Any, kept: list[str], given: Path) -> None:
    config = config_of('given seed 0', options={'model.student.backbone.init_cfg': own})
    *drawn, loaded = config.model.student.backbone.init_cfg
    assert [one['type'] for one in drawn] == kept and loaded['checkpoint'] == str(given)


def test_weights_that_would_replace_the_start_are_refused(given: Path) -> None:
    with pytest.raises(
        ValueError, match=r"methods.given: start 'file': load_from='x.pth' of the control would replace it"
    ):
        config_of('given seed 0', options={'load_from': 'x.pth'})


def test_a_control_may_inherit_what_no_start_replaces() -> None:
    config, starts = Config(dict(model=dict(inherit=[['decode_head', 'decode_head']]))), defined().starts
    assert configs.conflict(config, starts['file']) is None
    config.model.inherit.append(['backbone.layer1', 'backbone.layer1'])
    said = configs.conflict(config, starts['file'])
    assert (
        said == "start 'file': model.inherit=['backbone.layer1'] of the control would replace it; remove the row "
        'from the suite.'
    )


def test_pretraining_needs_the_processes_of_the_students(tmp_path: Path) -> None:
    definition = defined()
    run = run_of(definition, 'pretrain/pre seed 0')
    tiny.write_result(run.folder, 0, config_hash=plan.hash_of(definition, run), processes=8)
    with pytest.raises(ValueError, match=r'pretrain/pre seed 0: .* made by 8 process\(es\), this would be 1'):
        preflight.unfinished(definition, plan.runs(definition))
