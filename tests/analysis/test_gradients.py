"""Gradients of single terms: against plain backward passes, on networks of every kind, without a trace."""

from typing import Any

import numpy as np
import pytest
import torch

from mmdistill_dense.apps.inspect.gradients import Term, backbone_parameters, measure_gradients, pulls_of
from tests import toys

KD = dict(type='LogitKD')
MIMIC = dict(type='MaskedMimic', loss_weight=3.0)
PCD = dict(type='PCD', queue_size=8, num_pixels=16)
CIRKD = dict(type='CIRKD', pixel_memory=20, region_memory=8, pixel_contrast=16, region_contrast=16)


@pytest.fixture(scope='module')
def model() -> Any:
    return toys.distilled(
        student=toys.seg_net(dropout=0.3),
        teacher=toys.seg_teacher(),
        distillers=dict(kd=KD, mimic=MIMIC, pcd=PCD, cirkd=CIRKD),
    )


def by_name(model: Any) -> dict[str, Term]:
    return {term.name: term for term in measure_gradients(model, toys.seg_batch())}


def test_each_term_is_what_a_backward_of_it_alone_gives() -> None:
    model = toys.distilled(teacher=toys.seg_teacher(), distillers=dict(kd=KD, mimic=MIMIC)).double()
    actual = by_name(model)
    assert list(actual) == ['task', 'distill.kd.loss_kd', 'distill.mimic.loss_mimic']
    parameters = list(model.backbone.parameters())
    alone = {}
    for name in actual:
        losses = toys.losses_of(model)
        chosen = {k: v for k, v in losses.items() if (k == name) or (name == 'task' and not k.startswith('distill.'))}
        assert actual[name].value == pytest.approx(float(toys.total(chosen).detach()), rel=1e-12)
        gradients = torch.autograd.grad(toys.total(chosen), parameters)
        alone[name] = torch.cat([gradient.flatten() for gradient in gradients])
    whole, task = sum(float(g.norm()) for g in alone.values()), alone['task']
    for name, term in actual.items():
        pull, expected = term.pulls['backbone'], alone[name]
        assert pull.norm == pytest.approx(float(expected.norm()), rel=1e-9)
        assert pull.share == pytest.approx(pull.norm / whole, rel=1e-9)
        assert pull.cosine == pytest.approx(float(expected @ task / expected.norm() / task.norm()), rel=1e-9)


def test_shares_of_terms_sum_to_all(model: Any) -> None:
    actual = by_name(model).values()
    assert len(actual) > 4 and sum(term.share for term in actual) == pytest.approx(1)
    assert sum(term.pulls['backbone'].share for term in actual) == pytest.approx(1)


def test_nothing_is_left_behind(model: Any) -> None:
    toys.total(toys.losses_of(model)).backward()
    model.backbone.layer1.eval()
    model.distillation.started = False
    batch = toys.seg_batch()

    def everything() -> list[Any]:
        tensors = [*model.state_dict().values(), *model.distillers.state_dict().values()]
        tensors += [p.grad for p in model.parameters() if p.grad is not None]
        tensors += [torch.get_rng_state(), torch.from_numpy(np.random.get_state()[1].astype(np.int64))]
        tensors += [*batch['inputs'], *(sample.gt_sem_seg.data for sample in batch['data_samples'])]
        modes = [module.training for module in model.modules()]
        return [*(x.clone() for x in tensors), modes, model.distillation.started, toys.hooks_left(model)]

    before = everything()
    first = measure_gradients(model, batch)
    after = everything()
    assert all(torch.equal(a, b) if torch.is_tensor(a) else a == b for a, b in zip(before, after, strict=True))
    torch.rand(3)  # another random stream, hence other dropout
    assert first[0].value != measure_gradients(model, batch)[0].value
    model.train()
    model.distillation.started = True
    model.zero_grad()


def test_a_task_alone_has_the_whole_share() -> None:
    (task,) = measure_gradients(toys.build_plain(toys.seg_net()), toys.seg_batch())
    assert task.share == task.pulls['backbone'].share == 1 and task.pulls['backbone'].cosine == pytest.approx(1)
    neck = dict(type='PKD', student_tap='neck')
    model = toys.distilled('mmdet', student=toys.det_net(), teacher=toys.det_teacher(), distillers=dict(pkd=neck))
    batch = toys.det_batch()
    task, pkd = measure_gradients(model, batch)
    task_losses = {name: value for name, value in toys.losses_of(model, batch).items() if 'distill' not in name}
    assert task.value == pytest.approx(float(toys.total(task_losses).detach()))
    assert task.pulls['backbone'].norm > 0 and pkd.pulls['backbone'].norm > 0
    assert -1 <= pkd.pulls['backbone'].cosine <= 1


def test_with_cp_is_measured_without_it() -> None:
    options = dict(teacher=toys.seg_teacher(), distillers=dict(kd=KD))
    plain, recomputing = (
        toys.distilled(student=toys.seg_net(backbone=dict(with_cp=flag)), **options) for flag in (False, True)
    )
    recomputing.load_state_dict(plain.state_dict())
    assert measure_gradients(recomputing, toys.seg_batch()) == measure_gradients(plain, toys.seg_batch())
    assert recomputing.backbone.layer1[0].with_cp
    with pytest.raises(ValueError, match='with_cp off'):
        pulls_of(toys.losses_of(recomputing), backbone_parameters(recomputing))
