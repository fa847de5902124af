"""A distilled student is copied, cast, averaged, pickled and called as one of its class."""

import copy
import inspect
import io
import shutil
from dataclasses import replace
from pathlib import Path

import mmdet.models  # noqa: F401
import mmseg.models  # noqa: F401
import pytest
import torch
from mmdet.registry import MODELS as DETECTORS
from mmengine.model import ExponentialMovingAverage
from mmseg.registry import MODELS as SEGMENTORS
from torch.optim.swa_utils import AveragedModel

from mmdistill_dense.model.distill_model import distilled_class
from tests import toys


def pair():
    """A small pair whose distillers hold parameters and the teacher."""
    return toys.distilled(student=toys.seg_net('fcn'), teacher=toys.seg_teacher('fcn'), distillers=BOTH)


BOTH = dict(kd=dict(type='LogitKD'), mimic=dict(type='MaskedMimic'))


def terms(model, batch=None):
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
    averages = (ExponentialMovingAverage(model), ExponentialMovingAverage(model, device=torch.device('cpu')))
    for copied in (*(average.module for average in averages), copy.deepcopy(model).to('cpu').float()):
        assert toys.teacher_of(copied) is toys.teacher_of(model)
        assert all(distiller.teacher is toys.teacher_of(model) for distiller in copied.distillers.values())


def test_the_original_moves():
    model = pair()
    copied = copy.deepcopy(model)
    assert copied.distillation.state is not model.distillation.state
    assert copied.distillers['mimic'].state is copied.distillation.state
    network, expected = toys.teacher_of(copied).network, terms(copied)
    model.double()
    assert {p.dtype for p in network.parameters()} == {torch.float32} and terms(copied) == expected
    model.float()
    assert terms(model) == pytest.approx(expected)
    assert toys.teacher_of(model) is not toys.teacher_of(copied)
    assert all(distiller.teacher is toys.teacher_of(model) for distiller in model.distillers.values())
    with torch.no_grad():
        copied.decode_head.conv_seg.weight.fill_(0.1)
    assert terms(model) == pytest.approx(expected) and terms(copied) != expected


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
    tensors, buffers = ([*m.parameters(), *m.buffers()] for m in (model, toys.teacher_of(model).network))
    assert len(pickled) < sum(t.nbytes for t in tensors) + sum(t.nbytes for t in buffers), 'the teacher is not in it'
    with torch.no_grad():
        scores, expected_scores = (m.eval().test_step(toys.seg_batch()) for m in (other, copy.deepcopy(model)))
    assert torch.equal(scores[0].seg_logits.data, expected_scores[0].seg_logits.data)


def test_an_unpickled_model_loads_its_teacher(original, pickled, tmp_path):
    """Or it says which file it lacks."""
    *_, expected = original
    other, lacking = unpickled(pickled).train(), unpickled(pickled).train()
    with pytest.raises(RuntimeError, match='without DistillHook'):
        toys.losses_of(other)
    other.distillation.started = lacking.distillation.started = True
    assert terms(other) == pytest.approx(expected)
    assert toys.teacher_of(other).network is not None
    teacher, path = toys.teacher_of(lacking), str(tmp_path / 'gone.pth')
    teacher.option = replace(teacher.option, checkpoint=path)
    with pytest.raises(FileNotFoundError, match=r"model\.teacher\.checkpoint='.*gone\.pth': no such file"):
        toys.losses_of(lacking)
    torch.save(dict(state_dict=toys.build_plain(toys.seg_net('fcn', 16), seed=1).state_dict()), path)
    trained = tmp_path / Path(toys.teacher_file('fcn')).name  # trained again under the same name
    shutil.copy(path, trained)
    for file in (path, path, str(trained)):
        teacher.option = replace(teacher.option, checkpoint=file)
        with pytest.raises(ValueError, match='is another file than the one loaded before'):
            toys.losses_of(lacking)


# Calls by position or by the names of the class


FIT = dict(fit=dict(type='FitNet', student_tap='backbone[-1]'))
NETWORKS = [
    kind
    for registry in (DETECTORS, SEGMENTORS)
    for kind in registry.module_dict.values()
    if inspect.isclass(kind) and callable(getattr(kind, 'loss', None)) and hasattr(kind, 'extract_feat')
]


PAIRS = {
    'fcn': ('mmseg', lambda: toys.seg_net('fcn'), toys.seg_batch),
    'retinanet': ('mmdet', toys.det_net, toys.det_batch),
}


@pytest.mark.parametrize('name', PAIRS)
def test_every_form_of_a_call_gives_the_same_losses(name):
    scope, network, batch = PAIRS[name]
    model = toys.distilled(scope, student=network(), teacher=dict(network(), allow_random=True), distillers=FIT)
    plain = toys.build_plain(network())
    pictures, samples = list(inspect.signature(plain.loss).parameters)[:2]
    data = model.data_preprocessor(batch(), True)

    def losses(form):
        words = copy.deepcopy(data)
        forms = dict(
            positions=lambda: model.loss(words['inputs'], words['data_samples']),
            names=lambda: model.loss(**{pictures: words['inputs'], samples: words['data_samples']}),
            turned=lambda: model.loss(**{samples: words['data_samples'], pictures: words['inputs']}),
            mixed=lambda: model.loss(words['inputs'], **{samples: words['data_samples']}),
            forward=lambda: model(**words, mode='loss'),
        )
        actual = forms[form]()
        assert actual['distill.fit.loss_fitnet'] > 0
        return {key.split('.')[0] for key in actual}, actual['distill.fit.loss_fitnet'].item()

    first = losses('positions')
    assert list(model.state_dict()) == list(plain.state_dict())
    for form in ('names', 'turned', 'mixed', 'forward'):
        assert losses(form) == first, form
    model.eval()
    actual = model.loss(**{pictures: data['inputs'], samples: copy.deepcopy(data['data_samples'])})
    assert actual and not any(key.startswith('distill.') for key in actual), "a validation loss is the student's alone"
    with torch.no_grad():
        assert len(model.test_step(batch())) == 2, 'and it predicts'
    with pytest.raises(TypeError, match=f'missing a required argument: .{pictures}'):
        model.train().loss(no_such_name=data['inputs'], **{samples: data['data_samples']})


def test_the_signature_is_that_of_the_class():
    assert len(NETWORKS) > 60
    for kind in NETWORKS:
        distilled = distilled_class(kind)
        assert issubclass(distilled, kind) and inspect.signature(distilled.loss) == inspect.signature(kind.loss), kind
