"""``loss`` of a distilled student is called as that of its class: by position, or by the names of that class."""

import copy
import inspect

import mmdet.models  # noqa: F401
import mmseg.models  # noqa: F401
import pytest
import torch
from mmdet.registry import MODELS as DETECTORS
from mmseg.registry import MODELS as SEGMENTORS

from mmdistill_dense.model.distill_model import _batch, distilled_class
from tests import toys

FIT = dict(fit=dict(type='FitNet', student_tap='backbone[-1]'))
NETWORKS = [
    kind
    for registry in (DETECTORS, SEGMENTORS)
    for kind in registry.module_dict.values()
    if inspect.isclass(kind) and callable(getattr(kind, 'loss', None)) and hasattr(kind, 'extract_feat')
]


def detr():
    """A DETR of one encoder and one decoder layer; its class has a ``loss`` of its own."""
    layers = dict(num_layers=1, layer_cfg=dict(ffn_cfg=dict(feedforward_channels=32)))
    backbone = dict(depth=18, base_channels=8, frozen_stages=-1, norm_eval=False, init_cfg=None)
    parts = dict(backbone=backbone, neck=dict(in_channels=[64]), encoder=layers, decoder=layers, num_queries=6)
    parts.update(test_cfg=dict(max_per_img=6))
    return dict(cfg='mmdet::detr/detr_r50_8xb2-150e_coco.py', bbox_head=dict(num_classes=toys.NUM_CLASSES - 1), **parts)


PAIRS = {
    'fcn': ('mmseg', lambda: toys.seg_net('fcn'), toys.seg_batch),
    'retinanet': ('mmdet', toys.det_net, toys.det_batch),
    'faster_rcnn': ('mmdet', lambda: toys.det_net('faster_rcnn'), toys.det_batch),
    'detr': ('mmdet', detr, toys.det_batch),
}


@pytest.mark.parametrize('name', PAIRS)
def test_every_form_of_a_call_gives_the_same_losses(name):
    scope, network, batch = PAIRS[name]
    model = toys.distilled(scope, student=network(), teacher=dict(network(), allow_random=True), distillers=FIT)
    plain = toys.build_plain(network())
    pictures, samples = list(inspect.signature(plain.loss).parameters)[:2]
    data = model.data_preprocessor(batch(), True)

    def losses(form):
        given = copy.deepcopy(data)
        forms = dict(
            positions=lambda: model.loss(given['inputs'], given['data_samples']),
            names=lambda: model.loss(**{pictures: given['inputs'], samples: given['data_samples']}),
            turned=lambda: model.loss(**{samples: given['data_samples'], pictures: given['inputs']}),
            mixed=lambda: model.loss(given['inputs'], **{samples: given['data_samples']}),
            forward=lambda: model(**given, mode='loss'),
        )
        found = forms[form]()
        assert found['distill.fit.loss_fitnet'] > 0
        return {key.split('.')[0] for key in found}, found['distill.fit.loss_fitnet'].item()

    first = losses('positions')
    for form in ('names', 'turned', 'mixed', 'forward'):
        assert losses(form) == first, form
    model.eval()
    found = model.loss(**{pictures: data['inputs'], samples: copy.deepcopy(data['data_samples'])})
    assert found and not any(key.startswith('distill.') for key in found), "a validation loss is the student's alone"
    with torch.no_grad():
        assert len(model.test_step(batch())) == 2, 'and it predicts'
    with pytest.raises(TypeError, match=f'missing a required argument: .{pictures}'):
        model.train().loss(no_such_name=data['inputs'], **{samples: data['data_samples']})


def test_the_signature_is_that_of_the_class():
    assert len(NETWORKS) > 60
    for kind in NETWORKS:
        distilled = distilled_class(kind)
        assert issubclass(distilled, kind) and inspect.signature(distilled.loss) == inspect.signature(kind.loss), kind


def test_pictures_and_samples_are_found_whatever_a_class_calls_them():
    def free(*args, **kwargs): ...
    def named(images, targets, weight=1.0, *, scale=2.0): ...

    for loss in (free, named):
        assert _batch(loss, (1, 2), {}) == (1, 2)
        assert _batch(loss, (1,), dict(targets=2)) == (1, 2)
        assert _batch(loss, (), dict(images=1, targets=2, weight=3)) == (1, 2)
    assert _batch(named, (), dict(scale=5, targets=2, images=1)) == (1, 2)
