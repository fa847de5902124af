"""Copies of a distilled model: cast, moved, averaged, pickled. None of them touches the original or its teacher."""

import copy
import io
from dataclasses import replace

import pytest
import torch
from mmengine.model import ExponentialMovingAverage
from torch.optim.swa_utils import AveragedModel

from mmdistill_dense.model.distill_model import distilled_class
from tests import toys


def pair():
    """A small pair whose distillers hold parameters and the teacher."""
    return toys.distilled(student=toys.seg_net('fcn'), teacher=toys.seg_teacher('fcn'), distillers=BOTH)


BOTH = dict(kd=dict(type='LogitKD'), mimic=dict(type='MaskedMimic'))


def terms(model, batch=None):
    """The distillation losses of a step, as numbers."""
    losses = toys.losses_of(model, batch)
    return {name: losses[name].item() for name in ('distill.kd.loss_kd', 'distill.mimic.loss_mimic')}


MOVES = {
    'double': lambda model: copy.deepcopy(model).double(),
    'half and back': lambda model: copy.deepcopy(model).half().float(),
    'another device': lambda model: copy.deepcopy(model).to('meta'),
    'average of mmengine': lambda model: ExponentialMovingAverage(model, device=torch.device('meta')),
    'average of torch': lambda model: AveragedModel(model, device='meta'),
}


@pytest.fixture(scope='module')
def original():
    """A model, the weights of its teacher, and what a step with it gives."""
    model = pair()
    expected = terms(model)
    return model, toys.student_state(toys.teacher_of(model).network), expected


@pytest.mark.parametrize('move', MOVES.values(), ids=MOVES)
def test_a_moved_copy_leaves_the_original_alone(original, move):
    model, weights, expected = original
    network = toys.teacher_of(model).network
    copied = move(model)
    assert toys.teacher_of(model).network is network and not toys.differing(network.state_dict(), weights)
    assert terms(model) == expected
    del copied


def test_an_average_shares_the_teacher(original):
    model, *_ = original
    for average in (ExponentialMovingAverage(model), ExponentialMovingAverage(model, device=torch.device('cpu'))):
        assert toys.teacher_of(average.module) is toys.teacher_of(model)
        assert all(one.teacher is toys.teacher_of(model) for one in average.module.distillers.values())


def test_a_cast_copy_is_trained_with_a_teacher_of_its_own(original):
    model, _, expected = original
    copied = copy.deepcopy(model).double()
    assert toys.teacher_of(copied).network is None, 'nothing is loaded for a copy that does not train'
    batch = toys.seg_batch()
    batch['inputs'] = [picture.double() for picture in batch['inputs']]
    data = copied.data_preprocessor(batch, True)
    losses = copied(inputs=data['inputs'].double(), data_samples=data['data_samples'], mode='loss')
    assert losses['distill.mimic.loss_mimic'].item() == pytest.approx(expected['distill.mimic.loss_mimic'], rel=1e-4)
    toys.total(losses).backward()
    teacher = toys.teacher_of(copied)
    assert {p.dtype for p in teacher.network.parameters()} == {torch.float64}
    assert all(distiller.teacher is teacher for distiller in copied.distillers.values())
    assert terms(model) == expected


def test_the_original_moves_and_its_copy_stays():
    model = pair()
    copied = copy.deepcopy(model)
    network, expected = toys.teacher_of(copied).network, terms(copied)
    model.double()
    assert {p.dtype for p in network.parameters()} == {torch.float32} and terms(copied) == expected
    model.float()
    assert terms(model) == pytest.approx(expected)
    assert toys.teacher_of(model) is not toys.teacher_of(copied)
    assert all(distiller.teacher is toys.teacher_of(model) for distiller in model.distillers.values())


def test_a_move_that_changes_nothing_is_none(original):
    model, *_ = original
    copied = copy.deepcopy(model)
    copied.to('cpu').float()
    assert toys.teacher_of(copied) is toys.teacher_of(model)


@pytest.fixture(scope='module')
def pickled(original):
    """The bytes that ``torch.save`` writes of the model."""
    file = io.BytesIO()
    torch.save(original[0], file)
    return file.getvalue()


def unpickled(content):
    """The model of :func:`pickled`, in a process that has not made its class."""
    distilled_class.cache_clear()
    return torch.load(io.BytesIO(content), weights_only=False)


def test_a_pickled_model_is_the_same_without_its_teacher(original, pickled):
    model, *_ = original
    other = unpickled(pickled)
    assert type(other).__name__ == 'DistilledEncoderDecoder' and isinstance(other, type(model).__bases__[1])
    assert not toys.differing(other.state_dict(), model.state_dict())
    teacher, frozen = toys.teacher_of(other), {id(d.teacher) for d in other.distillers.values()}
    assert teacher.network is None and frozen == {id(teacher)}
    assert other.distillers['kd'].state is other.distillation.state
    mine, buffers = ([*m.parameters(), *m.buffers()] for m in (model, toys.teacher_of(model).network))
    assert len(pickled) < sum(t.nbytes for t in mine) + sum(t.nbytes for t in buffers), 'the teacher is not in it'
    with torch.no_grad():
        ours, theirs = (m.eval().test_step(toys.seg_batch()) for m in (other, copy.deepcopy(model)))
    assert torch.equal(ours[0].seg_logits.data, theirs[0].seg_logits.data)


def test_an_unpickled_model_is_trained_by_a_run_alone_and_loads_its_teacher(original, pickled):
    *_, expected = original
    other = unpickled(pickled).train()
    with pytest.raises(RuntimeError, match='without DistillHook'):
        toys.losses_of(other)
    other.distillation.started = True
    assert terms(other) == pytest.approx(expected)
    assert toys.teacher_of(other).network is not None


def test_an_unpickled_model_says_which_file_it_lacks(pickled, tmp_path):
    other = unpickled(pickled).train()
    other.distillation.started = True
    teacher = toys.teacher_of(other)
    teacher.option = replace(teacher.option, checkpoint=str(tmp_path / 'gone.pth'))
    with pytest.raises(FileNotFoundError, match=r"model\.teacher\.checkpoint='.*gone\.pth': no such file"):
        toys.losses_of(other)
    torch.save(
        dict(state_dict=toys.build_plain(toys.seg_net('fcn', 16), seed=1).state_dict()), teacher.option.checkpoint
    )
    for _ in range(2):
        with pytest.raises(ValueError, match='is another file than the one loaded before'):
            toys.losses_of(other)
