"""What is wrong with a teacher's first batch, and what only looks like it."""

import pytest
import torch

from mmdistill_dense.networks.inputs import Look, refuse_blind
from tests import toys

IMAGENET = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])
CAFFE = dict(mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0])
SCALED = dict(mean=[0.0, 0.0, 0.0], std=[255.0, 255.0, 255.0])
UNIT = dict(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
RAW = dict(mean=None, std=None)


def draw(*size, seed=0):
    return torch.rand(*size, generator=torch.Generator().manual_seed(seed))


PICTURES = (draw(2, 3, 16, 16) * 256).floor()


def normalised(pixels, preprocessor):
    mean, std = (
        torch.tensor(preprocessor[name] or [value]).view(-1, 1, 1) for name, value in (('mean', 0.0), ('std', 1.0))
    )
    return (pixels - mean) / std


def look_at(pixels, preprocessor, **maps):
    return Look.at(normalised(pixels, preprocessor), preprocessor, {name: [one] for name, one in maps.items()})


def refuse(*looks):
    for look in looks:
        refuse_blind('model.teacher', [look], {})


@pytest.mark.parametrize('preprocessor', [IMAGENET, CAFFE, SCALED], ids=['imagenet', 'caffe', 'scaled'])
@pytest.mark.parametrize('before', [IMAGENET, UNIT, dict(mean=[0.0], std=[255.0]), dict(mean=[127.5], std=[127.5])])
def test_pixels_that_were_normalised_before_are_refused(preprocessor, before):
    pixels = PICTURES / 255 if before is UNIT else PICTURES
    with pytest.raises(ValueError, match=r'^model\.teacher: mean and std .* a Normalize step in the training pipeline'):
        refuse(look_at(normalised(pixels, before), preprocessor))


def test_a_step_that_subtracts_the_mean_is_refused_though_the_pixels_do_not_show_it():
    def config(**step):
        return dict(train_dataloader=dict(dataset=dict(pipeline=[dict(type='mmdet.Normalize', **step)])))

    twice = look_at(normalised(PICTURES, CAFFE), CAFFE)
    refuse(twice)
    with pytest.raises(
        ValueError, match=r"a Normalize step .*train_dataloader\.dataset has \{'type': 'mmdet.Normalize'"
    ):
        refuse_blind('model.teacher', [twice], config(**CAFFE))
    refuse_blind('model.teacher', [look_at(normalised(PICTURES, CAFFE), RAW)], config(**CAFFE))
    refuse_blind('model.teacher', [look_at(PICTURES / 255, UNIT)], config(mean=[0.0] * 3, std=[255.0] * 3))


def test_pixels_to_255_are_refused_for_a_preprocessor_of_pixels_to_1():
    with pytest.raises(
        ValueError, match=r'numbers up to 0\.485, but the pixels of the first batch are from 0 to 255\.'
    ):
        refuse(look_at(PICTURES, UNIT))
    refuse(look_at(PICTURES / 255, UNIT))


@pytest.mark.parametrize('preprocessor', [IMAGENET, CAFFE, SCALED, RAW], ids=['imagenet', 'caffe', 'scaled', 'raw'])
def test_dull_pictures_go_on(preprocessor):
    dull = torch.zeros(2, 3, 16, 16)
    dull[0, :, 3, 4] = 2.0
    dark = draw(2, 3, 16, 16) * 20  # floats, as after a change of colours
    for pixels in (PICTURES, torch.zeros(2, 3, 16, 16), torch.full((2, 3, 16, 16), 0.4), dull, dark, PICTURES * 256):
        refuse(look_at(pixels, preprocessor))


def test_data_of_another_kind_go_on(monkeypatch):
    """In units of their own, with more axes, in half precision; and a dark batch of one process."""
    for mean, std in ((2.5, 2.1), (-500.0, 400.0), (0.02, 0.01), (1e4, 3e3)):
        refuse(look_at(mean + std * torch.randn(2, 3, 16, 16), dict(mean=[mean], std=[std])))
    video = Look.at(normalised(PICTURES, IMAGENET)[:, :, None], IMAGENET, {})
    half = Look.at(normalised(torch.ones(2, 3, 16, 16).triu(), IMAGENET).half(), IMAGENET, {})
    refuse(video, half)
    assert video.high == pytest.approx(255, abs=1) and half.whole
    wrong, right = (look_at(pixels, IMAGENET) for pixels in (PICTURES / 255, PICTURES))
    monkeypatch.setattr('mmdistill_dense.networks.inputs.all_gather_object', lambda looks: [looks, [right]])
    refuse(wrong)


def test_maps_that_do_not_vary_are_refused():
    constant = torch.randn(1, 5, 1, 1).expand(2, 5, 4, 4)
    with pytest.raises(ValueError, match=r'its maps at a are the same at all positions of all pictures'):
        refuse(look_at(PICTURES, IMAGENET, a=constant, b=torch.randn(2, 5, 4, 4)))
    with pytest.raises(ValueError, match='its maps at tokens'):
        refuse(look_at(PICTURES, IMAGENET, tokens=constant.flatten(2).mT))


def test_maps_that_vary_somewhere_go_on():
    dead = torch.zeros(2, 5, 4, 4)
    dead[1, 2, 0, 3] = 1e-4  # a single position behind a ReLU
    faint = torch.full((2, 5, 4, 4), -4.6)  # the scores of a head that has just been initialised
    faint[0, :, 0, 0] += 1e-4
    single, queries, rows = torch.ones(2, 5, 1, 1), draw(2, 7, 5), torch.ones(9, 5)
    refuse(look_at(PICTURES, IMAGENET, dead=dead, faint=faint, single=single, queries=queries, rows=rows))
    refuse(look_at(torch.zeros(2, 3, 16, 16), IMAGENET, map=torch.zeros(2, 5, 4, 4)))
    of_levels = Look.at(normalised(PICTURES, IMAGENET), IMAGENET, dict(neck=[torch.zeros(2, 5, 4, 4), dead]))
    refuse(of_levels)


@pytest.mark.parametrize('random', [False, True])
def test_a_teacher_looks_only_while_it_is_asked_to(random):
    """Random weights may give the same everywhere: times are measured with them, and a new head's scores may be so."""
    weights = dict(checkpoint=None, allow_random=True) if random else {}
    teacher = toys.frozen(toys.seg_teacher('fcn', **weights), 'backbone[3]')
    teacher.load(torch.zeros(1))
    teacher(torch.randn(2, 3, 64, 64))
    assert teacher.looks is None
    teacher.looks = []
    teacher(torch.randn(2, 3, 64, 64))
    (look,) = teacher.looks
    assert look.flat == ({} if random else {'backbone[3]': False}) and look.unit > 100 and look.high > 255
    assert teacher.__getstate__()['looks'] is None
