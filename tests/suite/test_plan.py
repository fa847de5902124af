"""Which runs there are, what they wait for, and their results."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from mmdistill_dense.apps.suite import plan
from tests.suite import tiny
from tests.suite.tiny import of_two as defined


def test_runs_are_teacher_then_seed_by_seed() -> None:
    found = plan.runs(defined())
    assert [run.title for run in found] == [
        'teacher',
        'control seed 0', 'kd seed 0', 'afdcd seed 0', 'control seed 1', 'kd seed 1', 'afdcd seed 1',
    ]  # fmt: skip
    assert [str(run.folder) for run in found[:2]] == ['out/teacher', 'out/runs/control/seed0']
    assert str(found[-1].folder) == 'out/runs/afdcd/seed1'
    assert len({run.folder for run in found}) == len(found)


def test_runs_wait_for_what_they_read() -> None:
    found = {run.title: run for run in plan.runs(defined())}
    teacher = found['teacher'].folder
    assert found['teacher'].after == found['control seed 0'].after == ()
    assert found['afdcd seed 1'].after == found['kd seed 0'].after == (teacher,)


def test_control_that_inherits_the_teachers_weights_waits_for_it() -> None:
    parts = ('pairs/toy_seg', 'datasets/shapes_seg', 'schedules/toy_450', 'runtime_seg')
    bases = (f"__import__('mmdistill_dense').base('mmdistill_dense::_base_/{part}.py')" for part in parts)
    Path('recipe.py').write_text(f"_base_ = [{', '.join(bases)}]\nmodel = dict(inherit=['decode_head.conv_seg'])\n")
    definition = defined(control='recipe.py', methods={'kd': {}})
    found = {run.title: run for run in plan.runs(definition)}
    control = found['control seed 0']
    assert control.after == found['kd seed 0'].after == (found['teacher'].folder,)
    tiny.write_result(definition.out / 'teacher', 1, checkpoint='iter_2.pth')
    assert plan.config_of(definition, control).model.teacher.checkpoint == 'out/teacher/iter_2.pth'
    before = plan.hash_of(definition, control)
    other = defined(control='recipe.py', methods={'kd': {}}, teacher={'config': 'teachers/toy_seg', 'seed': 5})
    assert plan.hash_of(other, control) != before


def test_a_row_takes_the_rate_of_the_better_control_once_these_have_ended() -> None:
    methods = {'kd': {'rate': 'control'}, 'control_x2': {'rate': 2}, 'afdcd': {}}
    definition = defined(methods=methods)
    found = {run.title: run for run in plan.runs(definition)}
    teacher, *alone = (found[title].folder for title in ('teacher', 'control seed 0', 'control_x2 seed 0'))
    assert found['kd seed 1'].after == found['afdcd seed 1'].after == (teacher,)
    assert found['kd seed 1'].heeds == (*alone,) and not found['afdcd seed 1'].heeds
    run = found['kd seed 1']

    def now() -> tuple[float, str]:
        config, config_hash = plan.resolved(definition, [run], plan.rate_of(definition, run))[run]
        return config.optim_wrapper.optimizer.lr, config_hash

    tiny.write_result(teacher, 90.0)
    with pytest.raises(ValueError, match='the learning rate of the student alone, and no run of that has ended'):
        now()
    tiny.write_result(alone[1], 31.0, metric='mIoU')
    rate, before = now()
    tiny.write_result(alone[0], 32.0, metric='mIoU')
    assert 2 * now()[0] == rate and now()[1] != before, 'twice the rate was the only one, and is now the worse one'
    assert plan.rates(definition, run) == [1, 2]
    todo = plan.unfinished(definition, plan.select(definition, ['kd'], [1]))
    assert [one.title for one in todo] == ['teacher', 'kd seed 1'], 'of the controls no weights are needed'
    other = found['kd seed 0']
    tiny.write_result(alone[0], 30.0, metric='mIoU')
    for rates, begun in (([2], True), ([1, 2], False)):  # a row that has begun keeps its rate for all seeds
        told = plan.resolved(definition, [other], 2)[other]
        plan.write_config(other, *told, 2)
        if begun:
            tiny.write_result(other.folder, 1.0, config_hash=told[1])
        assert plan.rates(definition, run) == rates and plan.rate_of(definition, run) == 2
        plan.check_unchanged(definition, [other])
        if begun:
            tiny.write_result(alone[0], 32.0, metric='mIoU')
            for refused in (lambda: plan.rate_of(definition, run), lambda: plan.check_unchanged(definition, [other])):
                with pytest.raises(
                    ValueError, match=r'began at 2 times .* control, at 1 times, is better .* `rate: 2\.0`'
                ):
                    refused()
            tiny.write_result(alone[0], 30.0, metric='mIoU')
        shutil.rmtree(other.folder)
    plan.write_config(other, *plan.resolved(definition, [other], 1)[other])
    tiny.write_result(other.folder, 1.0)
    (other.folder.parent / 'seed9_old').mkdir()
    shutil.copy(found['kd seed 0'].file, other.folder.parent / 'seed9_old')
    assert plan.rates(definition, run) == [1], 'it began before the definition named the rate'
    with pytest.raises(ValueError, match='began at 1 times'):
        plan.check_unchanged(definition, [other])


def test_a_network_in_a_file_of_the_user_s_is_part_of_its_runs(tmp_path: Path) -> None:
    own = tmp_path / 'own.py'
    own.write_text("model = dict(type='EncoderDecoder', decode_head=dict(dropout_ratio=0.1))")
    Path('recipe.py').write_text(
        f"_base_ = ['{defined().control}']\nmodel = dict(student=dict(_delete_=True, cfg='{own}'))\n"
    )
    definition = defined(control='recipe.py', methods={'kd': {}})
    run = next(run for run in plan.runs(definition) if run.name == 'control')
    plan.write_config(run, *plan.resolved(definition, [run])[run])
    plan.check_unchanged(definition, [run])
    own.write_text(own.read_text().replace('0.1', '0.7'))
    plan.check_unchanged(definition, [run])  # it has not begun
    tiny.write_result(run.folder, 1.0, config_hash=plan.hash_of(definition, run))
    with pytest.raises(ValueError, match='control seed 0: .* was made with other networks: a file that the pair names'):
        plan.check_unchanged(definition, [run])


def test_results_are_those_of_finished_runs_in_the_order_of_the_table() -> None:
    for name, score in (
        ('runs/afdcd/seed1', 3),
        ('runs/control/seed0', 1),
        ('teacher', 9),
    ):
        tiny.write_result(Path('out', name), score)
    Path('out/runs/kd/seed0').mkdir(parents=True)
    found = plan.results(defined())
    assert list(found) == ['teacher', 'control', 'afdcd']
    assert {name: {seed: result['score'] for seed, result in seeds.items()} for name, seeds in found.items()} == {
        'teacher': {0: 9}, 'control': {0: 1}, 'afdcd': {1: 3},
    }  # fmt: skip


def test_students_read_the_teacher_that_the_suite_trains() -> None:
    definition = defined()
    tiny.write_result(definition.out / 'teacher', 1, checkpoint='iter_2.pth')
    runs = {run.title: run for run in plan.runs(definition)}
    assert plan.config_of(definition, runs['kd seed 1']).model.teacher.checkpoint == 'out/teacher/iter_2.pth'
    assert plan.config_of(definition, runs['kd seed 1']).randomness.seed == 1
    assert plan.config_of(definition, runs['teacher']).train_cfg.max_iters == 2


def test_a_teacher_of_an_earlier_out_is_trained_anew(tmp_path: Path) -> None:
    """It may be of other settings, or of other data."""
    base = (
        f"_base_ = ['{defined().control}']\nmodel = dict(teacher=dict(checkpoint='{tmp_path}/work/teacher/iter_2.pth'))"
    )
    Path('recipe.py').write_text(base)
    tiny.write_result(tmp_path / 'work/teacher', 1, checkpoint='iter_2.pth')
    (tmp_path / 'work/teacher/iter_2.pth').touch()
    definition = replace(defined(control='recipe.py'), path=tmp_path / 'suite.yaml')
    assert not plan.trains_teacher(definition)
    (tmp_path / 'work/teacher/state.json').write_text('{}')
    assert plan.trains_teacher(definition)
    assert not plan.trains_teacher(replace(definition, path=tmp_path / 'elsewhere/suite.yaml'))


def test_teacher_that_is_there_is_not_trained_unless_that_had_begun() -> None:
    file = Path('work_dirs/demo/teacher/iter_700.pth')
    file.parent.mkdir(parents=True)
    file.touch()
    definition = defined()
    assert 'teacher' not in [run.name for run in plan.runs(definition)]
    assert plan.config_of(definition, plan.runs(definition)[1]).model.teacher.checkpoint == str(file)
    Path('out/teacher').mkdir(parents=True)
    Path('out/teacher/state.json').write_text(json.dumps({'iteration': 1}))
    assert 'teacher' in [run.name for run in plan.runs(definition)]
