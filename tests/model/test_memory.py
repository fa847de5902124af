"""What a distilled step holds and runs: of the teacher its taps alone while the student runs, nothing after it."""

import gc
import weakref
from contextlib import contextmanager
from functools import partial
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

from mmdistill_dense.networks import recording
from mmdistill_dense.networks.teacher import FrozenTeacher
from tests import toys

PCD = dict(type='PCD', queue_size=16, queue_init='empty', head=dict(type='linear'))
MASKD = dict(type='MasKD', num_tokens=4, student_mask_from=0)
SCORES = dict(student_tap='roi_head.bbox_head.fc_cls', output='cls_score', form='softmax')
SEGMENTATION = dict(
    kd=dict(type='LogitKD'),
    afdcd=dict(type='AfDCD', patch_size=(2, 2)),
    maskd=dict(MASKD, student_tap='backbone[3]'),
    pcd=dict(PCD, student_tap='backbone[3]'),
)
DETECTION = dict(
    maskd=dict(MASKD, student_tap='neck'),
    freekd=dict(type='FreeKD'),
    kd=dict(type='HeadOutputKD', student_tap='bbox_head.retina_cls'),
    pcd=dict(PCD, student_tap='neck[:2]'),
)
ROIS = dict(boxes=dict(type='RoIHeadKD'), scores=dict(type='RoIHeadKD', **SCORES))


def _segmentor():
    model = toys.distilled(student=toys.seg_net('fcn'), teacher=toys.seg_teacher('fcn'), distillers=SEGMENTATION)
    return _with_tokens(model), toys.seg_batch()


def _detector(kind, distillers):
    options = dict(student=toys.det_net(kind), teacher=toys.det_teacher(kind), distillers=distillers)
    return _with_tokens(toys.distilled('mmdet', **options)), toys.det_batch()


def _with_tokens(model):
    for distiller in model.distillers.values():
        if hasattr(distiller, 'load_tokens'):
            shapes = distiller.token_shapes()
            distiller.load_tokens({name: torch.full(shape, 0.01) for name, shape in shapes.items()})
    return model


MODELS = {
    'segmentor': _segmentor,
    'retinanet': partial(_detector, 'retinanet', DETECTION),
    'faster_rcnn': partial(_detector, 'faster_rcnn', ROIS),
}


@pytest.fixture(scope='module', params=MODELS)  # not among the long tests: graphs compiled there leave tensors
def trained(request):
    """A model after its first step, which may prepare something for good, and its batch."""
    model, batch = MODELS[request.param]()
    toys.losses_of(model, batch)
    return model, batch


def _live():
    """The number and the bytes of all tensors that Python can reach."""
    gc.collect()
    storages = {}
    count = 0
    for thing in gc.get_objects():
        if isinstance(thing, Tensor):
            count += 1
            storage = thing.untyped_storage()
            storages[storage._cdata] = storage.nbytes()
    return count, sum(storages.values())


@contextmanager
def _uncollected():
    """Without the collector: what a step leaves must go when its last name does, not some time later."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def test_nothing_stays_alive_after_a_step(trained):
    model, batch = trained
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
    outputs_seen = []
    for step in range(1, 9):
        model.distillation.state.iteration = step % 5
        toys.total(toys.losses_of(model, batch)).backward()
        optimizer.step()
        optimizer.zero_grad()
        if step in (3, 8):
            outputs_seen.append(_live())
    assert outputs_seen[0] == outputs_seen[1], 'tensors and bytes after step 3 and after step 8'
    assert toys.hooks_left(model) == 0
    assert all(toys.hooks_left(teacher.network) == 0 for teacher in model.distillation.teachers.values())


def test_a_graph_goes_with_its_losses(trained):
    """As part of a cycle it would stay until the collector runs, with all its maps."""
    model, batch = trained
    with _maps_of(model) as refs, _uncollected():
        losses = toys.losses_of(model, batch)
        assert any(ref() is not None for ref in refs)
        del losses
        assert not any(ref() is not None for ref in refs)


@contextmanager
def _hooked(modules, note):
    """Call a function of name and output for each of these modules, by name, that runs while the context is open."""
    handles = [
        module.register_forward_hook(lambda _, __, output, name=name: note(name, output)) for name, module in modules
    ]
    yield
    for handle in handles:
        handle.remove()


@contextmanager
def _maps_of(network):
    """Weak references to the layers' outputs, growing with each forward pass while the context is open."""
    refs = []

    def note(_, output):
        refs.extend(weakref.ref(x) for x in (output if isinstance(output, (tuple, list)) else [output]))

    kinds = (nn.Conv2d, nn.BatchNorm2d, nn.ReLU)
    with _hooked([(name, module) for name, module in network.named_modules() if isinstance(module, kinds)], note):
        yield refs


def test_teachers_maps_are_gone_before_the_student_runs(trained):
    model, batch = trained
    teacher, taps, alive = toys.teacher_of(model), [], []

    def record(inputs, samples):
        recorded = FrozenTeacher._record(teacher, inputs, samples)
        taps.extend(tensor for actual in recorded.values() for tensor in actual)
        return recorded

    with _maps_of(teacher.network) as refs, _uncollected(), mock.patch.object(teacher, '_record', record):
        handle = model.backbone.register_forward_pre_hook(
            lambda *_: alive.extend(ref() for ref in refs if ref() is not None)
        )
        toys.losses_of(model, batch)
    handle.remove()
    assert len(refs) > len(alive)
    assert {tensor.data_ptr() for tensor in alive} <= {tensor.data_ptr() for tensor in taps}


def test_answers_of_the_teachers_head_are_forgotten():
    model, batch = MODELS['faster_rcnn']()
    teacher = toys.teacher_of(model)
    with mock.patch.object(FrozenTeacher, 'cached', autospec=True, side_effect=FrozenTeacher.cached) as asked:
        toys.losses_of(model, batch)
    assert asked.call_count == 2 and teacher._step_cache is None


# What does not run


@pytest.mark.sample(2)
@pytest.mark.parametrize(('kind', 'distiller', 'parts'), [
    ('retinanet', dict(type='FitNet', student_tap='backbone[3]'), {'backbone'}),
    ('retinanet', dict(type='FitNet', student_tap='neck'), {'backbone', 'neck'}),
    ('faster_rcnn', dict(type='FitNet', student_tap='neck'), {'backbone', 'neck'}),
    ('faster_rcnn', dict(type='RoIHeadKD'), {'backbone', 'neck', 'roi_head'}),
    ('retinanet', dict(type='HeadOutputKD', student_tap='bbox_head.retina_cls'), {'backbone', 'neck', 'bbox_head'}),
])  # fmt: skip
def test_a_detector_runs_only_what_its_taps_need(kind, distiller, parts):
    model, batch = _detector(kind, dict(x=distiller))
    toys.losses_of(model, batch)
    called = set()
    with _hooked(toys.teacher_of(model).network.named_modules(), lambda name, _: called.add(name)):
        toys.losses_of(model, batch)
    assert {name.split('.')[0] for name in called if name} == parts


def test_the_step_learns_nothing_new_by_hooks(monkeypatch):
    model = toys.distilled(student=toys.seg_net('fcn'), teacher=toys.seg_teacher('fcn'))
    assert toys.teacher_of(model).plan.heads == ['decode_head']
    modules = []
    noting = recording.noting
    monkeypatch.setattr(recording, 'noting', lambda named, note: noting(modules.extend(named) or [], note))
    toys.losses_of(model)
    assert not modules
