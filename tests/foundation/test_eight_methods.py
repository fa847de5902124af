"""Eight methods at once on the map of a foundation model: whole runs that resume, mixed precision, two processes."""

from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn

from mmdistill_dense.engine import DistillDDP
from tests import gloo, toys
from tests.faults.tools import resumed_alike
from tests.foundation.test_foundation_teacher import METHODS, from_file, option

TAPS = dict(student_tap='backbone[3]', teacher_tap='map')
EIGHT = {name.lower(): dict(TAPS, type=name, **more) for name, more in METHODS.items()}
SCOPES = ('mmseg', 'mmdet')
SCALED = option('dinov3', scale=1.5)


@OPTIM_WRAPPERS.register_module(force=True)
class HalfOptimWrapper(OptimWrapper):
    """bfloat16 on the CPU; mmengine's own wrapper wants a GPU."""

    @contextmanager
    def optim_context(self, model):
        with super().optim_context(model), torch.autocast('cpu', torch.bfloat16):
            yield


def run(folder: Path, scope: str, teacher: dict, **changes) -> dict:
    """Train four steps with averaged weights, a segmentor in half precision; return the last checkpoint."""
    student = toys.seg_net('fcn') if scope == 'mmseg' else toys.det_net()
    optimizer = dict(type='SGD', lr=0.001, momentum=0.9)
    changes |= dict(
        custom_hooks=[dict(type='EMAHook', momentum=0.5)],
        optim_wrapper=dict(type='HalfOptimWrapper' if scope == 'mmseg' else 'OptimWrapper', optimizer=optimizer),
    )
    model = toys.model_config(student, teacher, EIGHT)
    if scope == 'mmseg':
        toys.train(folder, model, iters=4, **changes)
    else:
        toys.train(folder, toys.det_run_config(folder, model, iters=4, **changes))
    return torch.load(folder / 'iter_4.pth', weights_only=False)


@pytest.mark.soak
@pytest.mark.parametrize('scope', SCOPES)
def test_a_run_resumes_bit_for_bit_with_averaged_weights(scope: str, tmp_path: Path) -> None:
    assert len(EIGHT) == 8
    teacher = from_file()
    _, whole = resumed_alike(tmp_path, lambda folder, **more: run(folder, scope, teacher, **more))
    for part in ('state_dict', 'distillers', 'ema_state_dict'):
        assert all(value.isfinite().all() for value in whole[part].values() if value.is_floating_point()), part
    second = torch.load(tmp_path / 'a/iter_2.pth', weights_only=False)['state_dict']
    assert len(toys.differing(second, whole['state_dict'])) > 20, 'it learns'
    assert not any('patch_embed' in name for name in whole['state_dict'])


@pytest.mark.soak
def test_a_detector_has_finite_gradients_in_half_precision() -> None:
    """Of 128 pixels, because torch's own gradient of P7's convolution, whose input then is one pixel, is not."""
    model = toys.distilled('mmdet', student=toys.det_net(), teacher=option(), distillers=EIGHT)
    with torch.autocast('cpu', torch.bfloat16):
        losses = toys.losses_of(model, toys.det_batch(side=128))
    toys.total(losses).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    assert model.backbone.conv1.weight.grad.abs().sum() > 0


MATCH = dict(d=dict(TAPS, type='FitNet'))


def gradients(scope: str, rank: int, distillers: dict, teacher: dict, processes: int = 2) -> dict[str, torch.Tensor]:
    """Those of one step on this process's share of four pictures, with norms that use their running statistics."""
    student = toys.seg_net('fcn') if scope == 'mmseg' else toys.det_net()
    model = toys.distilled(scope, student=student, teacher=teacher, distillers=distillers)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    batch = toys.seg_batch(4) if scope == 'mmseg' else toys.det_batch(4)
    count = 4 // processes
    share = {name: values[count * rank : count * (rank + 1)] for name, values in batch.items()}
    wrapped = DistillDDP(model, broadcast_buffers=False) if processes > 1 else model  # its hooks average the gradients
    losses = wrapped(**model.data_preprocessor(share, True), mode='loss')
    toys.total(losses).backward()
    assert all(p.grad is None for p in toys.teacher_of(model).network.parameters())
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def one_of_two(rank: int, folder: str) -> None:
    place = gloo.join(rank, folder, '')
    found = {scope: gradients(scope, rank, EIGHT, option()) for scope in SCOPES}
    torch.save({**found, 'match': gradients('mmseg', rank, MATCH, SCALED)}, place / f'{rank}.pth')


@pytest.mark.soak
def test_two_processes_share_their_gradients(tmp_path: Path) -> None:
    """And those of one method of means are the gradients of one process with all pictures."""
    gloo.start(one_of_two, str(tmp_path))
    first, second = (torch.load(tmp_path / f'{rank}.pth') for rank in range(2))
    for scope, stem in zip(SCOPES, ('backbone.stem.0.weight', 'backbone.conv1.weight'), strict=True):
        assert not toys.differing(first[scope], second[scope])
        assert first[scope][stem].abs().sum() > 0
        assert all(value.isfinite().all() for value in first[scope].values())
        owners = {name.split('.')[1] for name in first[scope] if name.startswith('distillers.')}
        assert owners == {'fitnet', 'cwd', 'pkd', 'mgd', 'afdcd', 'pcd'}, 'the methods with modules of their own'
    expected = gradients('mmseg', 0, MATCH, SCALED, processes=1)
    assert set(first['match']) == set(expected) and any('distillers' in name for name in expected)
    for name, gradient in expected.items():
        torch.testing.assert_close(first['match'][name], gradient, atol=1e-5, rtol=1e-3, msg=name)
