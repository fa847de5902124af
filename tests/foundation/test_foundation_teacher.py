"""A foundation model teaches mmseg and mmdet students through the ordinary model, runner and checkpoints."""

import copy

import pytest
import torch
from mmengine.registry import MODELS
from torch import nn

from tests import toys
from tests.faults.tools import resumed_alike
from tests.foundation import files

KIND = 'mmdistill_dense.FoundationTeacher'
MEAN, STD = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])


def option(case='dinov2', **changes):
    """A teacher with random weights."""
    return dict(dict(type=KIND, model=files.tiny(case), allow_random=True), **changes)


def from_file(case='dinov2', **changes):
    """A teacher with the weights of a file."""
    path = toys.fresh_dir() / f'{case}.pth'
    torch.save(files.state(case, 'original'), path)
    return dict(dict(type=KIND, model=files.tiny(case), checkpoint=str(path)), **changes)


def model_of(teacher, scope='mmseg', student=None, **distiller):
    """A model that one distiller trains from the map."""
    tap = dict(student_tap='backbone[3]', teacher_tap='map')
    student = student or (toys.seg_net('fcn') if scope == 'mmseg' else toys.det_net())
    return toys.distilled(scope, student=student, teacher=teacher, distillers=dict(d=dict(tap, **distiller)))


def test_default_taps_of_other_networks_are_refused_with_the_reason():
    with pytest.raises(KeyError, match=r'tapped at map, maps.0 … maps.1 and cls; it has no class scores'):
        toys.distilled(teacher=option(), distillers=dict(d=dict(type='LogitKD')))


def test_two_taps_class_token_and_description_of_the_pass():
    taps = dict(student_tap=[('backbone[3]', 0.5)] * 2, teacher_tap=['maps.0', 'maps.1'])
    model = model_of(option(), type='FitNet', **taps)
    assert toys.losses_of(model)['distill.d.loss_fitnet'].requires_grad
    assert toys.teacher_of(model).plan.stop_after == 2


def test_the_teacher_sees_its_own_normalisation():
    student = toys.seg_net(
        'fcn', data_preprocessor=dict(mean=[10.0, 20.0, 30.0], std=[2.0, 3.0, 4.0], bgr_to_rgb=False)
    )
    model = model_of(from_file(), student=student, type='FitNet')
    batch = toys.seg_batch()
    inputs = model.data_preprocessor(copy.deepcopy(batch), True)['inputs']
    found = toys.teacher_of(model)(inputs)['map'][0]
    rgb = torch.stack([picture.flip(0) for picture in batch['inputs']]).float()
    expected = (rgb - MEAN.view(-1, 1, 1)) / STD.view(-1, 1, 1)
    with torch.no_grad():
        torch.testing.assert_close(found, toys.teacher_of(model).network(expected), atol=1e-4, rtol=0)


def test_a_run_with_a_file_resumes_bit_for_bit_and_keeps_the_receipt(tmp_path):
    match = dict(d=dict(type='FitNet', student_tap='backbone[3]', teacher_tap='map'))
    model = toys.model_config(toys.seg_net('fcn'), from_file(), match)
    ema = dict(custom_hooks=[dict(type='EMAHook', momentum=0.5)])
    _, first = resumed_alike(tmp_path, lambda folder, **more: toys.train(folder, model, iters=4, **ema, **more))
    assert not any('blocks' in name for name in first['state_dict'])
    assert 'original names' in str(first['meta']) and 'dinov2.pth' in str(first['meta'])


def test_loading_says_what_is_wrong():
    with pytest.raises(ValueError, match=r'model.teacher.checkpoint is not set: random weights'):
        model_of(option(allow_random=False), type='FitNet')
    wrong = from_file('dinov2')
    wrong['model'] = files.tiny('dinov2_reg')
    with pytest.raises(ValueError, match=r"model.teacher.checkpoint='.*dinov2.pth' does not fit model=dict\("):
        model_of(wrong, type='FitNet')
    with pytest.raises(ValueError, match=r"model='dinov2_vits15' is no known vision transformer"):
        model_of(option(model='dinov2_vits15'), type='FitNet')


@pytest.mark.parametrize('accelerate', [dict(dtype='bfloat16'), dict(channels_last=True)], ids=str)
def test_accelerated_passes_are_close(accelerate):
    plain, fast = (toys.frozen(from_file('dinov3', accelerate=one), 'map', 'maps.0') for one in (None, accelerate))
    pictures = files.picture(80, 112)
    for teacher in (plain, fast):
        teacher.load(torch.zeros(1))
    for tap in ('map', 'maps.0'):
        one, other = (teacher(pictures)[tap][0] for teacher in (plain, fast))
        assert one.dtype == other.dtype == torch.float32
        assert nn.functional.cosine_similarity(one, other).min() > 0.995


@pytest.mark.parametrize('case', ['dinov2', 'dinov3'])
def test_a_step_in_mixed_precision(case):
    model = model_of(from_file(case), type='FitNet')
    with torch.autocast('cpu', torch.bfloat16):
        mixed = toys.losses_of(model)['distill.d.loss_fitnet']
    mixed.backward()
    assert model.backbone.stem[0].weight.grad.isfinite().all()
    assert mixed.item() == pytest.approx(toys.losses_of(model)['distill.d.loss_fitnet'].item(), rel=0.05)


@pytest.mark.parametrize('units', [True, False])
def test_bfloat16_is_advised_against_on_cpus_without_it(units, monkeypatch):
    for name in ('_is_avx512_bf16_supported', '_is_amx_tile_supported'):
        monkeypatch.setattr(torch.cpu, name, lambda: units, raising=False)
    told = []
    monkeypatch.setattr('mmdistill_dense.networks.acceleration.print_log', lambda text, *_: told.append(text))
    teacher = toys.frozen(option(accelerate=dict(dtype='bfloat16')), 'map')
    teacher.load(torch.zeros(1))
    teacher(files.picture(28, 28))
    assert len(told) == (not units) and all('runs the teacher several times slower' in text for text in told)


class Plain(nn.Module):
    """A user's own network, which is in no package."""

    def __init__(self, channels=8):
        super().__init__()
        self.layer = nn.Conv2d(3, channels, 4, 4)
        self.map = nn.Identity()

    def forward(self, pictures):
        return self.map(self.layer(pictures))


class Stated(Plain):
    preprocessor = dict(mean=[127.5] * 3, std=[127.5] * 3, bgr_to_rgb=True)


class Bare(Plain):
    """Its constructor takes nothing, as the guide's."""

    def __init__(self):
        super().__init__()


def test_any_module_teaches_and_the_normalisation_of_the_config_wins():
    for kind in (Plain, Bare, Stated):
        MODELS.register_module(module=kind, force=True)
    with pytest.raises(ValueError, match=r'model.teacher: Plain does not say how its pictures are normalised'):
        model_of(dict(type='Plain', allow_random=True), type='FitNet')
    path = toys.fresh_dir() / 'plain.pth'
    torch.save(Plain().state_dict(), path)
    pictures = torch.rand(2, 3, 64, 64)
    for stated in (dict(mean=[10.0] * 3, std=[20.0] * 3, bgr_to_rgb=True), Stated.preprocessor):
        teachers, maps = [dict(type=kind, data_preprocessor=stated) for kind in ('Plain', 'Bare', 'Stated')], []
        for teacher in [*teachers, *[dict(type='Stated')] * (stated is Stated.preprocessor)]:
            model = model_of(dict(teacher, checkpoint=str(path)), type='FitNet')
            assert torch.isfinite(toys.losses_of(model)['distill.d.loss_fitnet'])
            maps.append(toys.teacher_of(model)(pictures)['map'][0])
        assert all(torch.equal(maps[0], other) for other in maps[1:])
