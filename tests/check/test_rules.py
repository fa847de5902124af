"""Single checks, on facts that are made up."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.config import Config

from mmdistill_dense.analysis.gradients import Pull, Term
from mmdistill_dense.check import Finding, Options
from mmdistill_dense.check.context import Subject, TeacherFacts
from mmdistill_dense.check.findings import exit_code, message_of, worst
from mmdistill_dense.check.rules import config_rules, network_rules, step_rules
from mmdistill_dense.check.tap_watch import TapRow, _is_flat
from mmdistill_dense.distillers import AfDCD
from mmdistill_dense.distillers.feature import Level
from tests import toys


def subject(**facts: Any) -> Subject:
    made = Subject(Config(facts.pop('config', {})), facts.pop('options', Options()))
    for name, value in facts.items():
        setattr(made, name, value)
    return made


def term(name: str, norm: float, cosine: float = 1.0) -> Term:
    return Term(name, norm, 0.5, {'backbone': Pull(norm, 0.5, cosine)})


def distilled(weight: float = 1.0) -> Any:
    return SimpleNamespace(distillers={'kd': SimpleNamespace(weight=lambda: weight)})


@pytest.mark.parametrize(
    ('norm', 'level', 'word'),
    [
        (0.0, 'warning', 'no gradient'),
        (1e-3, 'warning', 'Raise'),
        (0.5, None, ''),
        (30.0, 'note', 'lower'),
        (1e4, 'warning', 'lower'),
    ],
    ids=str,
)
def test_a_distiller_pulls_beside_the_task(norm: float, level: str | None, word: str) -> None:
    made = subject(model=distilled(), terms=[term('task', 1.0), term('distill.kd.loss_kd', norm)])
    findings = list(step_rules.pull(made))
    assert [finding.level for finding in findings] == ([level] if level else [])
    assert all(word in f'{finding.message} {finding.advice}' for finding in findings)


def test_a_misspelt_key_of_the_runner_is_an_error() -> None:
    with pytest.raises(ValueError, match="load_form is a key that nothing reads. Did you mean 'load_from'"):
        list(config_rules.keys(subject(config=dict(load_form='a.pth'))))
    assert not list(config_rules.keys(subject(config=dict(load_from='a.pth', test_dataloader2=1))))


def test_random_networks_and_unlearned_tokens_are_not_judged() -> None:
    terms = [term('task', 1.0), term('distill.kd.loss_kd', 1e6, -1.0)]
    for facts in (dict(options=Options(weights=False)), dict(untaught={'kd': 'random tokens'})):
        made = subject(model=distilled(), terms=terms, **facts)
        assert not [*step_rules.pull(made), *step_rules.against(made)]


def test_a_schedule_that_is_off_is_a_note() -> None:
    made = subject(model=distilled(0.0), terms=[term('task', 1.0), term('distill.kd.loss_off', 0.0)])
    (finding,) = step_rules.pull(made)
    assert finding.level == 'note' and 'schedule' in finding.message


def test_pulling_against_the_task_is_a_note() -> None:
    made = subject(terms=[term('task', 1.0), term('distill.kd.loss_kd', 1.0, -0.6)])
    (finding,) = step_rules.against(made)
    assert finding.level == 'note' and '-0.60' in finding.message
    assert not list(step_rules.against(subject(terms=[term('distill.pcd.loss_pcd', 1.0, math.nan)])))


@pytest.mark.parametrize(
    ('metric', 'wrong'),
    [({'mIoU': 8.0}, True), ({'mIoU': 40.0}, False), ({'coco/bbox_mAP_50': 0.0}, True), ({}, False)],
    ids=str,
)
def test_a_teacher_at_chance(metric: dict[str, float], wrong: bool) -> None:
    facts = TeacherFacts('model.teacher', 'FCN', 10, metric=metric, metric_pictures=4)
    assert bool(list(network_rules.teacher_metric(subject(teachers=[facts], data_classes=list('abcdefghij'))))) is wrong


def test_maps_of_very_different_size_are_a_note() -> None:
    row = TapRow('at', 'backbone[0]', 'X', [2, 8, 64, 64], 'backbone[3]', 'X', [2, 8, 8, 8])
    (finding,) = step_rules.stretched(subject(taps=[row]))
    assert '64x64' in finding.message and '8x8' in finding.message


@pytest.mark.parametrize(('needed', 'warned'), [(8.9, False), (9.1, True)])
def test_a_step_that_nearly_fills_the_device_is_a_warning(
    needed: float, warned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, 'get_device_properties', lambda _: SimpleNamespace(total_memory=10 * 2**30))
    cost = dict(control_memory=5 * 2**30, extra_memory=(needed - 5) * 2**30)
    findings = list(step_rules.memory(subject(options=Options(device='cuda'), cost=cost)))
    assert [finding.level for finding in findings] == ['warning'] * warned
    assert all(f'about {needed} GiB of the 10.0 GiB' in finding.message for finding in findings)
    assert not list(step_rules.memory(subject(cost=cost))), 'the memory of a CPU is not known'


def test_workers_that_live_on_between_epochs() -> None:
    run = dict(
        train_cfg=dict(by_epoch=True, max_epochs=3),
        train_dataloader=dict(num_workers=2, persistent_workers=True),
        default_hooks=dict(distill=dict(type='mmdistill_dense.DistillHook')),
    )
    assert [finding.level for finding in config_rules.workers(subject(config=run))] == ['error']
    run['train_cfg'] = dict(type='IterBasedTrainLoop', max_iters=3)
    assert not list(config_rules.workers(subject(config=run)))


def test_a_kind_of_optimizer_that_the_student_is_not_published_with() -> None:
    former = dict(student=dict(cfg='mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py'))
    for kind, levels in (('SGD', ['warning']), ('AdamW', [])):
        made = subject(config=dict(model=former, optim_wrapper=dict(optimizer=dict(type=kind, lr=0.01))))
        assert [finding.level for finding in config_rules.optimizer(made)] == levels
    assert not list(config_rules.optimizer(subject(config=dict(model=dict(student=dict(type='FCN'))))))


@pytest.mark.parametrize(
    ('shape', 'reduction', 'said'),
    [
        ((2048, 64, 128), 'sum', None),
        ((2048, 45, 45), 'sum', None),
        ((512, 16, 16), 'sum', '0.26 in units of the mean'),
        ((512, 16, 16), 'mean', None),
    ],
)
def test_a_weight_of_a_sum_on_a_map_of_another_size(shape: tuple[int, ...], reduction: str, said: str | None) -> None:
    afdcd = AfDCD(fd_weight=2e-6, fd_reduction=reduction)
    afdcd.levels = [Level(torch.Size((8, *shape[1:])), torch.Size(shape), 1.0, 'backbone[3]')]
    model = SimpleNamespace(distillers={'afdcd': afdcd})
    found = [finding.message for finding in network_rules.summed(subject(model=model))]
    assert [said in message for message in found] == [True] * bool(said)  # type: ignore[operator]
    assert not list(network_rules.summed(subject(model=model, options=Options(size=(64, 64))))), 'no map of the run'


def test_labels_that_the_student_has_no_class_for() -> None:
    samples = toys.seg_batch()['data_samples']
    largest = max(int(sample.gt_sem_seg.data.max()) for sample in samples)
    for classes, levels in ((largest, ['error']), (largest + 1, [])):
        network = dict(decode_head=dict(num_classes=classes))
        made = subject(network=network, batch=dict(data_samples=samples))
        assert [finding.level for finding in config_rules.labels(made)] == levels
    samples[0].gt_sem_seg.data.fill_(255)
    samples[1].gt_sem_seg.data.fill_(0)
    assert not list(config_rules.labels(made)), '255 is ignored'


def test_flat_maps_are_told_from_others() -> None:
    assert _is_flat(torch.full((2, 3, 4, 4), 0.5)) and not _is_flat(torch.rand(2, 3, 4, 4))
    assert not _is_flat(torch.rand(2, 3, 1, 1)), 'a single position is neither'


def test_the_gravest_finding_decides() -> None:
    note, warning, error = (Finding(level, 'x', 'y') for level in ('note', 'warning', 'error'))
    assert [worst(f) for f in ([], [note], [note, warning], [error, warning])] == ['ok', 'ok', 'warning', 'error']
    assert [exit_code([warning], strict) for strict in (False, True)] == [0, 1]
    assert exit_code([error], strict=False) == 2


def test_messages_are_those_of_the_error_with_its_type_where_it_is_none_of_ours() -> None:
    assert message_of(KeyError('no such tap')) == 'no such tap'
    assert message_of(RuntimeError('shape')) == 'RuntimeError: shape'
