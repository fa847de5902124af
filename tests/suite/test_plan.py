"""Which runs there are, what they wait for, their results, and what is found before the first of them starts."""

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.config import Config

from mmdistill_dense.apps.suite import actions, plan
from mmdistill_dense.apps.suite.definition import Definition
from mmdistill_dense.config import local_code
from mmdistill_dense.guards.findings import WARNING, Finding
from tests.suite import tiny
from tests.suite.tiny import of_two as defined


def test_runs_are_teacher_then_seed_by_seed() -> None:
    definition = defined()
    actual = plan.runs(definition)
    assert [run.title for run in actual] == [
        'teacher',
        'control seed 0', 'kd seed 0', 'afdcd seed 0', 'control seed 1', 'kd seed 1', 'afdcd seed 1',
    ]  # fmt: skip
    assert [str(run.folder) for run in actual[:2]] == ['out/teacher', 'out/runs/control/seed0']
    assert str(actual[-1].folder) == 'out/runs/afdcd/seed1'
    assert len({run.folder for run in actual}) == len(actual)
    teacher, control, kd, *_, last = actual
    assert teacher.after == control.after == () and last.after == kd.after == (teacher.folder,)
    assert plan.config_of(definition, last).randomness.seed == 1
    assert plan.config_of(definition, teacher).train_cfg.max_iters == 2


def test_control_that_inherits_the_teachers_weights_waits_for_it() -> None:
    parts = ('pairs/toy_seg', 'datasets/shapes_seg', 'schedules/toy_450', 'runtime_seg')
    bases = (f"__import__('mmdistill_dense').base('mmdistill_dense::_base_/{part}.py')" for part in parts)
    Path('recipe.py').write_text(f"_base_ = [{', '.join(bases)}]\nmodel = dict(inherit=['decode_head.conv_seg'])\n")
    definition = defined(control='recipe.py', methods={'kd': {}})
    actual = {run.title: run for run in plan.runs(definition)}
    control = actual['control seed 0']
    assert control.after == actual['kd seed 0'].after == (actual['teacher'].folder,)
    tiny.write_result(definition.out / 'teacher', 1, checkpoint='iter_2.pth')
    assert plan.config_of(definition, control).model.teacher.checkpoint == 'out/teacher/iter_2.pth'
    before = plan.hash_of(definition, control)
    other = defined(control='recipe.py', methods={'kd': {}}, teacher={'config': 'teachers/toy_seg', 'seed': 5})
    assert plan.hash_of(other, control) != before


def test_a_network_in_a_file_of_the_user_s_is_part_of_its_runs(tmp_path: Path) -> None:
    config_file = tmp_path / 'own.py'
    config_file.write_text("model = dict(type='EncoderDecoder', decode_head=dict(dropout_ratio=0.1))")
    Path('recipe.py').write_text(
        f"_base_ = ['{defined().control}']\nmodel = dict(student=dict(_delete_=True, cfg='{config_file}'))\n"
    )
    definition = defined(control='recipe.py', methods={'kd': {}})
    run = next(run for run in plan.runs(definition) if run.name == 'control')
    plan.write_config(run, *plan.resolved(definition, [run])[run])
    plan.check_unchanged(definition, [run])
    config_file.write_text(config_file.read_text().replace('0.1', '0.7'))
    plan.check_unchanged(definition, [run])  # it has not begun
    tiny.write_result(run.folder, 1.0, config_hash=plan.hash_of(definition, run))
    with pytest.raises(ValueError, match='control seed 0: .* was made with other networks: a file that the pair names'):
        plan.check_unchanged(definition, [run])


def test_local_code_changed_between_seeds_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    helper = tmp_path / 'seeds_helper.py'
    helper.write_text('FACTOR = 1\n')
    imports = "custom_imports = dict(imports=['mmdistill_dense.engine.launch', 'seeds_helper'])"
    Path('recipe.py').write_text(f"_base_ = ['{defined().control}']\n{imports}\n")
    definition = defined(control='recipe.py', methods={'kd': {}})
    by_title = {run.title: run for run in plan.runs(definition)}
    run, later = by_title['control seed 0'], by_title['control seed 1']
    config, config_hash = plan.resolved(definition, [run])[run]
    plan.write_config(run, config, config_hash)
    plan.check_code(run, config)  # a job asks it at its start
    tiny.write_result(run.folder, 1.0, config_hash=config_hash)
    plan.check_unchanged(definition, [run, later])
    helper.write_text('FACTOR = 2\n')
    local_code._read_module.cache_clear()  # as in the process of the next command
    for refused in (lambda: plan.check_code(run, config), lambda: plan.check_unchanged(definition, [later, run])):
        with pytest.raises(ValueError, match=r'control seed 0: .* other code: seeds_helper\.py changed since.*# code:'):
            refused()
    plan.check_unchanged(definition, [later])
    lines = run.file.read_text().splitlines()
    run.file.write_text('\n'.join(line for line in lines if not line.startswith('# code: ')))
    plan.check_unchanged(definition, [run])  # as a run of an earlier version, or by the user's word


def test_a_given_teacher_is_not_trained() -> None:
    file = Path('work_dirs/demo/teacher/iter_700.pth')
    file.parent.mkdir(parents=True)
    file.touch()
    definition = defined()
    assert 'teacher' not in [run.name for run in plan.runs(definition)]
    assert plan.config_of(definition, plan.runs(definition)[1]).model.teacher.checkpoint == str(file)
    Path('out/teacher').mkdir(parents=True)
    Path('out/teacher/state.json').write_text(json.dumps({'iteration': 1}))
    assert 'teacher' in [run.name for run in plan.runs(definition)]


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
    run = definition.out / 'runs/kd/seed0/run.py'
    run.parent.mkdir(parents=True)
    run.touch()
    assert not plan.trains_teacher(definition), 'a method has begun with it'


# What is found before the first run starts


def titles(runs: list[plan.Run]) -> list[str]:
    return [run.title for run in runs]


def test_selected_rows_come_with_what_they_need() -> None:
    definition = defined()
    assert titles(plan.select(definition)) == titles(plan.runs(definition))
    assert titles(plan.select(definition, ['control'], [1])) == ['control seed 1']
    assert titles(plan.select(definition, ['afdcd'], [0])) == ['teacher', 'afdcd seed 0']
    assert titles(plan.select(definition, ['kd'], [1])) == ['teacher', 'kd seed 1']
    assert titles(plan.select(definition, ['teacher'])) == ['teacher']
    assert titles(plan.select(definition, ['teacher'], [5])) == ['teacher'], 'it has no seed of the definition'
    assert titles(plan.select(definition, [], [0])) == ['teacher', 'control seed 0', 'kd seed 0', 'afdcd seed 0']
    with pytest.raises(ValueError, match="--only: row 'afdc': unknown. Close: afdcd"):
        plan.select(definition, ['afdc'])
    with pytest.raises(ValueError, match=r'--seeds \[3\]: the definition has \[0, 1\]'):
        plan.select(definition, [], [3])


def finish(definition: Definition, title: str, config_hash: str | None = None) -> plan.Run:
    run = next(run for run in plan.runs(definition) if run.title == title)
    tiny.write_result(run.folder, 1.0, config_hash=config_hash or plan.hash_of(definition, run))
    return run


def test_changed_runs_are_refused(tmp_path: Path) -> None:
    """By the written config; a hash of earlier versions covered other texts."""
    definition = defined()
    run = finish(definition, 'kd seed 1')
    config = plan.config_of(definition, run)
    (run.folder / 'config.py').write_text(config.pretty_text)
    assert 'kd seed 1' not in titles(plan.unfinished(definition, plan.runs(definition)))
    finish(definition, 'kd seed 1', 'of before')
    assert 'kd seed 1' not in titles(plan.unfinished(definition, plan.runs(definition)))
    config.model.distillers.kd.loss_weight = 7
    config.work_dir = '/moved'
    (run.folder / 'config.py').write_text(config.pretty_text)
    text = r'kd seed 1: out/runs/kd/seed1 was made with another config .* \(model.distillers.kd.loss_weight\)'
    with pytest.raises(ValueError, match=text):
        plan.unfinished(definition, plan.runs(definition))
    (run.folder / 'config.py').unlink()
    finish(definition, 'kd seed 1', '0123456789abcdef')
    with pytest.raises(ValueError, match=r'kd seed 1: .* \(its teacher\)'):
        plan.unfinished(definition, plan.runs(definition))


def test_a_run_goes_on_with_as_many_processes_as_it_was_begun() -> None:
    """A finished teacher may have had others, and a run without a checkpoint has not begun."""
    definition = defined()
    runs = {run.title: run for run in plan.runs(definition)}
    for title in ('control seed 1', 'teacher'):
        tiny.write_result(runs[title].folder, 1.0, config_hash=plan.hash_of(definition, runs[title]), processes=8)
    output = r'control seed 1: .* was made by 8 process\(es\), this would be 1: another batch'
    with pytest.raises(ValueError, match=output):
        plan.unfinished(definition, list(runs.values()))
    assert 'control seed 1' not in titles(plan.unfinished(definition, list(runs.values()), processes=8))
    assert plan.unfinished(definition, [runs['control seed 1']]) == [], 'nothing is to be done'
    (begun := runs['kd seed 0']).folder.mkdir(parents=True)
    (begun.folder / 'state.json').write_text('{"config_hash": "x", "processes": 8}')
    plan.check_processes(begun, 1)
    torch.save({'state_dict': {}}, begun.folder / 'iter_2.pth')
    plan.check_processes(begun, 8)
    with pytest.raises(ValueError, match=r'kd seed 0: .* was made by 8'):
        plan.check_processes(begun, 1)


NO_SCALE = [{'type': 'mmdistill_dense.LoadShapes'}, {'type': 'Resize', 'scale': [96, 96]}, {'type': 'PackSegInputs'}]
MOBILENET = {'control': 'deeplabv3plus_mobilenetv2_to_r18w16_camvid', 'teacher': None, 'options': None}


@pytest.mark.sample(5)
@pytest.mark.parametrize(('changes', 'output'), [
    (MOBILENET, r"control: .* data_prefix.img_path = 'nowhere/camvid/images/train' does not"),
    (dict(teacher=None), r'model\.teacher\.checkpoint=.*iter_700\.pth.*no such file'),
    (dict(options={**tiny.SMALL, 'val_dataloader.dataset.pipeline': NO_SCALE}),
     'tiny.yaml: control: training would stop at its first evaluation'),
    (dict(methods={'kd': {'options': {'student_tap': 'decode_head.conf_seg'}}}), 'tiny.yaml: kd: .*conv_seg'),
    (dict(metric='mIuO'), "tiny.yaml: metric: score of val_evaluator 'mIuO': unknown. Close: mIoU"),
    (dict(options={'optim_wrapper.optimizer.lrr': 3}), "TypeError: optim_wrapper.optimizer: .* no option 'lrr'.*'lr'"),
    (dict(options={'param_scheduler.1.powr': 3}), "param_scheduler.1: PolyLR has no option 'powr'.*'power'"),
    (dict(options={'train_dataloader': {'batchsize': 3}}), "DataLoader.* unexpected keyword argument 'batchsize'"),
    (dict(options={'randomness.determinstic': True}), 'randomness.*determinstic.*deterministic'),
    (dict(teacher={'config': 'teachers/toy_seg', 'options': {'train_cfg.max_itrs': 3}}),
     "tiny.yaml: teacher: TypeError: train_cfg: .* has no option 'max_itrs'"),
    (dict(test_sets={'rain': {'num_imges': 3}}), "tiny.yaml: test_sets.rain: .*'num_imges'"),
])  # fmt: skip
def test_findings_of_check_are_told_before_the_start(
    changes: dict, output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('MMDISTILL_DATA', 'nowhere')
    definition = defined(**changes)
    with pytest.raises(ValueError, match=output):
        actions.check_rows(definition, plan.resolved(definition, plan.runs(definition)))


def test_missing_first_weights_are_named_at_the_start() -> None:
    """Also of a row of one's own."""
    name = "__import__('mmdistill_dense').base('mmdistill_dense::_base_/recipes/toy_seg.py')"
    start = "student=dict(backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='weights/none.pth')))"
    option = "distillers=dict(kd=dict(type='LogitKD'))"
    Path('mine.py').write_text(f'_base_ = {name}\nmodel = dict({option}, {start})\n')
    definition = defined(methods={'mine': {'config': 'mine.py'}})
    words = r"tiny.yaml: mine: .*init_cfg.checkpoint='weights/none.pth'.* MMDISTILL_WEIGHTS names the folder weights\."
    with pytest.raises(ValueError, match=words):
        actions.check_rows(definition, plan.resolved(definition, plan.runs(definition)))


def test_an_evaluator_without_a_score_is_refused() -> None:
    config = Config(dict(val_evaluator=dict(type='CocoMetric', metric='bbox', format_only=True)))
    with pytest.raises(ValueError, match='x: val_evaluator.format_only=True writes predictions and gives no score'):
        actions.check_metric(config, 'coco/bbox_mAP', 'x')


def test_a_row_is_checked_with_a_step_of_few_pictures(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a CPU the step of a whole batch may take minutes and all memory."""
    asked: list[int | None] = []

    def checked(config: Config, options: Any, tell: Any) -> Any:
        asked.append(options.batch)
        context = SimpleNamespace(pictures=0, student=None, teachers=[], taps=[], model=None)
        warning = Finding(WARNING, 'It is large.', 'Make it smaller.')
        return SimpleNamespace(findings=[warning], verdict='ready', context=context)

    monkeypatch.setattr(actions, 'check_config', checked)
    definition = tiny.defined(batch=16, methods={'kd': {}, 'control_x2': {'rate': 2}})
    actions.check_rows(definition, plan.resolved(definition, plan.runs(definition)))
    assert asked == [2, 2, 2], 'the teacher, the control at any rate, the method'
    assert 'warning: It is large. Make it smaller.' in capsys.readouterr().out
    finish(definition, 'teacher')
    actions.check_rows(definition, plan.resolved(definition, plan.runs(definition)))
    assert asked == [2, 2, 2], 'a teacher that is there by now changes no row'


@pytest.mark.parametrize(('processes', 'fits'), [(8, True), (1, False)])
def test_batch_that_the_learning_rate_is_not_for_is_refused(processes: int, fits: bool) -> None:
    """Which batches it is for: tests/engine/test_start.py."""
    definition = defined(control='deeplabv3_r101_to_r18_cityscapes', teacher=None, options={})
    output = r'1 process\(es\) with train_dataloader.batch_size=2 take 2 pictures a step.*base_batch_size=16'
    with nullcontext() if fits else pytest.raises(ValueError, match=output):
        plan.check_batch(definition, plan.resolved(definition, plan.runs(definition)), processes)
