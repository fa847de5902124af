"""Rows of a suite whose student's backbone is pre-trained first."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from mmdistill_dense.apps.suite import actions, configs, job, plan
from tests.suite import tiny
from tests.suite.tiny import run_of

SHORT = {
    'train_cfg.max_epochs': 1,
    'train_dataloader.dataset.num_images': 8,
    'train_dataloader.batch_size': 4,
    'model.teacher.checkpoint': None,
    'model.teacher.allow_random': True,
}
PCD = {'config': 'pcd:toy_pretrain', 'options': SHORT}
COLD = {'config': 'pcd:toy_pretrain', 'options': {**SHORT, 'model.distillers.pcd.temperature': 0.07}}
ROWS: dict[str, Any] = {'pcd': {'pretrain': PCD}, 'both': {'method': 'kd', 'pretrain': PCD}, 'cold': {'pretrain': COLD}}


def test_rows_of_one_pre_training_share_it() -> None:
    suite = tiny.defined(methods=copy.deepcopy(ROWS))
    runs = {run.title: run for run in plan.runs(suite)}
    assert list(runs)[:3] == ['teacher', 'pretrain:pcd', 'pretrain:cold']
    starts = {name: runs[f'{name} seed 0'].pretraining for name in ('control', *ROWS)}
    folder = suite.out / 'pretrain'
    assert starts == {'control': None, 'pcd': folder / 'pcd', 'both': folder / 'pcd', 'cold': folder / 'cold'}
    assert runs['pcd seed 0'].teacher is None and runs['both seed 0'].teacher == suite.out / 'teacher'
    chosen = plan.select(suite, ['cold'])
    assert [run.title for run in chosen] == ['pretrain:cold', 'cold seed 0'], 'and nothing else'


def test_a_row_without_a_method_is_the_student_alone() -> None:
    suite = tiny.defined(methods=copy.deepcopy(ROWS))
    pcd, both = (configs.method_config(suite, suite.methods[name]) for name in ('pcd', 'both'))
    assert not pcd.model.get('distillers') and list(both.model.distillers) == ['kd']
    run = run_of(suite, 'pcd seed 0')
    weights = plan.config_of(suite, run).model.student.backbone.init_cfg
    assert weights == dict(type='Pretrained', checkpoint=str(run.pretraining / 'missing.pth'), prefix='backbone.')


def test_other_pre_training_options_change_the_hash() -> None:
    warm = {**SHORT, 'model.distillers.pcd.temperature': 0.1}
    first = tiny.defined(methods=copy.deepcopy(ROWS))
    second = tiny.defined(methods={**copy.deepcopy(ROWS), 'cold': {'pretrain': {**COLD, 'options': warm}}})
    same = {
        title: plan.hash_of(first, run_of(first, title)) == plan.hash_of(second, run_of(second, title))
        for title in ('control seed 0', 'pcd seed 0', 'cold seed 0', 'pretrain:cold')
    }
    assert same == {'control seed 0': True, 'pcd seed 0': True, 'cold seed 0': False, 'pretrain:cold': False}


@pytest.mark.parametrize(('row', 'words'), [
    ({'pretrain': 3}, 'methods.x.pretrain must be a text or a dict or None, got 3'),
    ({'pretrain': {'confg': 'a'}}, "pretrain has no option 'confg'.*Did you mean 'config'"),
    ({'pretrain': 'pcd:toy_pretrian'}, "pretrain.config: .*'toy_pretrian': unknown"),
    ({'pretrain': 'none.py'}, "pretrain.config: no file 'none.py'"),
    ({'pretrain': PCD, 'config': 'cwd:toy_seg'}, 'pretrain cannot be combined with `config`'),
    ({'pretrain': PCD, 'settings': 'auto'}, 'settings: a row without `method` has no distillers'),
    ({'pretrain': 'control:toy_seg'}, "methods.x.pretrain.config='control:toy_seg' must be a pre-training"),
    ({'pretrain': {**PCD, 'options': {'work_dir': 'a'}}}, 'methods.x.pretrain.options.work_dir: the suite sets it'),
    ({'config': None}, 'methods.x.config is empty'),
    ({'rate': None}, 'methods.x.rate is empty'),
])  # fmt: skip
def test_mistakes_name_the_key(row: dict[str, Any], words: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        suite = tiny.defined(methods={'x': row})
        plan.config_of(suite, run_of(suite, 'pretrain:x'))


@pytest.mark.parametrize(
    ('name', 'words'), [('cwd', 'the student alone and not cwd'), ('control_p', 'is not compared')]
)
def test_a_name_that_says_something_else_is_refused(name: str, words: str) -> None:
    with pytest.raises(ValueError, match=f'methods.{name}: pretrain: .*{words}'):
        tiny.defined(methods={name: {'pretrain': PCD}})


@pytest.mark.parametrize(('change', 'words'), [
    ({'load_from': 'x.pth'}, "methods.pcd.pretrain has no effect beside load_from='x.pth'"),
    ({'model.inherit': [['backbone', 'backbone']]}, 'methods.pcd.pretrain has no effect where model.inherit sets'),
])  # fmt: skip
def test_weights_that_something_else_replaces_are_refused(change: dict[str, Any], words: str) -> None:
    base = "_base_ = __import__('mmdistill_dense').base('mmdistill_dense::_base_/recipes/toy_seg.py')\n"
    keys = ''.join(f'{key} = {value!r}\n' for key, value in change.items() if '.' not in key)
    model = {key.partition('.')[2]: value for key, value in change.items() if '.' in key}
    Path('pair.py').write_text(f'{base}{keys}model = dict(**{model})\n')
    suite = tiny.defined(control='pair.py', methods={'pcd': {'pretrain': PCD}})
    with pytest.raises(ValueError, match=words):
        plan.config_of(suite, run_of(suite, 'pcd seed 0'))


def test_a_new_first_row_changes_nothing() -> None:
    folder = run_of(tiny.defined(methods={'pcd': {'pretrain': PCD}}), 'pretrain:pcd').folder
    folder.mkdir(parents=True)
    (folder / 'state.json').write_text('{}')
    more = tiny.defined(methods={'early': {'pretrain': PCD}, 'pcd': {'pretrain': PCD}})
    assert [run_of(more, f'{row} seed 0').pretraining for row in ('early', 'pcd')] == [folder] * 2


@pytest.mark.soak
def test_a_backbone_of_another_width_is_refused() -> None:
    wide = {**SHORT, 'model.student.backbone.base_channels': 16}
    suite = tiny.defined(methods={'pcd': {'pretrain': {**PCD, 'options': wide}}}, teacher=None)
    with pytest.raises(ValueError, match='methods.pcd.pretrain: its backbone has other tensors'):
        actions.check_rows(suite, plan.resolved(suite, plan.runs(suite)))


@pytest.mark.soak
def test_the_student_starts_from_the_pre_trained_backbone() -> None:
    still = {
        'optim_wrapper.optimizer.lr': 0.0,
        **tiny.content()['options'],
        'train_cfg': {'max_iters': 1, 'val_interval': 1},
    }
    suite = tiny.defined(methods={'pcd': {'pretrain': PCD}}, options=still, teacher=None)
    with pytest.raises(RuntimeError, match='pcd seed 0 needs results that are not there yet: out/pretrain/pcd'):
        job.execute_run(suite, run_of(suite, 'pcd seed 0'))
    result = job.execute_run(suite, run_of(suite, 'pretrain:pcd'))
    assert 'score' not in result and result['iterations'] == 2
    row = job.execute_run(suite, run_of(suite, 'pcd seed 0'))
    files = Path('out/pretrain/pcd', result['checkpoint']), Path('out/runs/pcd/seed0', row['checkpoint'])
    before, after = (torch.load(file, weights_only=False)['state_dict'] for file in files)
    names = [name for name in before if name.startswith('backbone.') and name.endswith('weight')]
    assert len(names) > 20 and all(torch.equal(before[name], after[name]) for name in names)
    assert plan.results(suite)['pcd'].keys() == {0}
    changed = tiny.defined(methods={'pcd': {'pretrain': COLD}}, options=still, teacher=None)
    with pytest.raises(ValueError, match='pcd seed 0: .* was made with another config'):
        plan.check_unchanged(changed, plan.runs(changed)[1:])
    with pytest.raises(ValueError, match=r'pretrain:pcd: .*model\.distillers\.pcd\.temperature'):
        plan.check_unchanged(changed, plan.runs(changed))
