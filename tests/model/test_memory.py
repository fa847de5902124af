"""What a distilled step holds: nothing after it, and of the teacher only its taps while the student runs."""

import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

from mmdistill_dense.networks.teacher import FrozenTeacher
from mmdistill_dense.utils.runner_internals import Samples
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


def _segmentor() -> tuple[Any, dict]:
    model = toys.distilled(student=toys.seg_net('fcn'), teacher=toys.seg_teacher('fcn'), distillers=SEGMENTATION)
    return _with_tokens(model), toys.seg_batch()


def _detector(kind: str, distillers: dict) -> tuple[Any, dict]:
    options = dict(student=toys.det_net(kind), teacher=toys.det_teacher(kind), distillers=distillers)
    return _with_tokens(toys.distilled('mmdet', **options)), toys.det_batch()


def _with_tokens(model: Any) -> Any:
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
def trained(request) -> tuple[Any, dict]:
    """A model after its first step, which may prepare something for good, and its batch."""
    model, batch = MODELS[request.param]()
    toys.losses_of(model, batch)
    return model, batch


def _live() -> tuple[int, int]:
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
def _uncollected() -> Iterator[None]:
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
    seen = []
    for step in range(1, 9):
        model.distillation.state.iteration = step % 5
        toys.total(toys.losses_of(model, batch)).backward()
        optimizer.step()
        optimizer.zero_grad()
        if step in (3, 8):
            seen.append(_live())
    assert seen[0] == seen[1], 'tensors and bytes after step 3 and after step 8'
    assert toys.hooks_left(model) == 0
    assert all(toys.hooks_left(teacher.network) == 0 for teacher in model.distillation.teachers.values())


def test_a_graph_goes_with_its_losses(trained):
    """As part of a cycle it would stay until the collector runs, with all its maps."""
    model, batch = trained
    refs, handles = _maps_of(model)
    with _uncollected():
        losses = toys.losses_of(model, batch)
        assert any(ref() is not None for ref in refs)
        del losses
        assert not any(ref() is not None for ref in refs)
    for handle in handles:
        handle.remove()


def _maps_of(network: nn.Module) -> tuple[list[weakref.ref], list]:
    """Weak references to the layers' outputs, growing with each forward pass; and the handles."""
    refs: list[weakref.ref] = []

    def note(_: Any, __: Any, output: Any) -> None:
        refs.extend(weakref.ref(x) for x in (output if isinstance(output, (tuple, list)) else [output]))

    leaves = [m for m in network.modules() if isinstance(m, (nn.Conv2d, nn.BatchNorm2d, nn.ReLU))]
    return refs, [leaf.register_forward_hook(note) for leaf in leaves]


def test_teachers_maps_are_gone_before_the_student_runs(trained):
    model, batch = trained
    teacher = toys.teacher_of(model)
    refs, handles = _maps_of(teacher.network)
    taps: list[Tensor] = []
    alive: list[Tensor] = []

    def look(*_: Any) -> None:
        alive.extend(ref() for ref in refs if ref() is not None)

    def record(inputs: Tensor, samples: Samples | None) -> dict[str, list[Tensor]]:
        recorded = FrozenTeacher._record(teacher, inputs, samples)
        taps.extend(tensor for found in recorded.values() for tensor in found)
        return recorded

    handles.append(model.backbone.register_forward_pre_hook(look))
    with _uncollected(), mock.patch.object(teacher, '_record', record):
        toys.losses_of(model, batch)
    for handle in handles:
        handle.remove()
    assert len(refs) > len(alive)
    assert {tensor.data_ptr() for tensor in alive} <= {tensor.data_ptr() for tensor in taps}


def test_answers_of_the_teachers_head_are_forgotten():
    model, batch = MODELS['faster_rcnn']()
    teacher = toys.teacher_of(model)
    with mock.patch.object(FrozenTeacher, 'cached', autospec=True, side_effect=FrozenTeacher.cached) as asked:
        toys.losses_of(model, batch)
    assert asked.call_count == 2 and teacher._step_cache is None
