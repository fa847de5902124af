"""Two gloo processes with a foundation model as teacher compute what one does."""

import pytest
import torch
from torch import nn

from mmdistill_dense.engine import DistillDDP
from tests import gloo, toys
from tests.foundation.files import tiny

TEACHER = dict(type='mmdistill_dense.FoundationTeacher', model=tiny('dinov3'), allow_random=True, scale=1.5)
MATCH = dict(d=dict(type='FitNet', student_tap='backbone[3]', teacher_tap='map'))
BATCH = 4


def gradients(rank, size, wrap=lambda model: model):
    """Those of one step on this process's share, with norms that use their running statistics."""
    model = toys.distilled(student=toys.seg_net('fcn'), teacher=TEACHER, distillers=MATCH)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    share = slice(rank * BATCH // size, (rank + 1) * BATCH // size)
    batch = {name: values[share] for name, values in toys.seg_batch(BATCH).items()}
    wrapped = wrap(model)  # kept, because its hooks average the gradients
    losses = wrapped(**model.data_preprocessor(batch, True), mode='loss')
    toys.total(losses).backward()
    assert not any(p.grad is not None for p in toys.teacher_of(model).network.parameters())
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def one_of_two(rank, folder):
    place = gloo.join(rank, folder, '')
    found = gradients(rank, 2, lambda model: DistillDDP(model, broadcast_buffers=False))
    torch.save(found, place / f'{rank}.pth')


@pytest.mark.soak
def test_two_processes_have_the_gradients_of_one(tmp_path):
    gloo.start(one_of_two, str(tmp_path))
    first, second = (torch.load(tmp_path / f'{rank}.pth') for rank in range(2))
    assert not toys.differing(first, second)
    expected = gradients(0, 1)
    assert set(first) == set(expected) and any('distillers' in name for name in first)
    for name, gradient in expected.items():
        torch.testing.assert_close(first[name], gradient, atol=1e-5, rtol=1e-3, msg=name)
