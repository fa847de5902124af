"""A teacher that gives maps only teaches segmentors and detectors."""

import pytest
import torch

from tests import toys
from tests.foundation.test_foundation_teacher import option

TEACHER = option()
QUEUE = dict(type='QueueKL', teacher_tap='cls', queue_size=4)
NEW = dict(
    match=dict(type='FeatureMatch'),
    blocks=dict(type='FeatureMatch', student_tap=['backbone[2]', 'backbone[3]'], teacher_tap=['maps.0', 'maps.1']),
    relations=dict(type='TokenRelations', resize='teacher'),
    query=dict(type='QueryMatch'),
    queue=QUEUE,
)
OTHERS = dict(
    fitnet=dict(type='FitNet'),
    mgd=dict(type='MGD', student_tap='backbone[3]'),
    pkd=dict(type='PKD', student_tap='backbone[3]'),
    cwd=dict(type='CWD', student_tap='backbone[3]'),
    pcd=dict(type='PCD', center=True, queue_size=8, queue_init='random'),
    at=dict(type='AT', student_tap='backbone[3]'),
    skd=dict(type='SKD', student_tap='backbone[2]', patch_size=1),
    ifvd=dict(type='IFVD', student_tap='backbone[2]', num_classes=toys.NUM_CLASSES),
    afdcd=dict(type='AfDCD', student_tap='backbone[2]', resize='student', pool_size=0, groups=8),
)
DENSE = dict(
    {name: NEW[name] for name in ('match', 'relations', 'query')},
    queue=dict(QUEUE, student_tap='neck[2]'),
    neck=dict(type='FeatureMatch', student_tap='neck[0]'),
    fgd=dict(type='FGD', student_tap='neck[1]', resize='student'),
)


def on_map(methods: dict) -> dict:
    return {name: {'teacher_tap': 'map', **option} for name, option in methods.items()}


@pytest.mark.parametrize('task', ['seg', 'det'])
def test_methods_that_compare_maps_reach_the_stem(task: str) -> None:
    if task == 'seg':
        model = toys.distilled(student=toys.seg_net('fcn'), teacher=TEACHER, distillers=on_map({**NEW, **OTHERS}))
        losses, stem = toys.losses_of(model), model.backbone.stem[0].weight
    else:
        given = dict(student=toys.det_net('gfl'), teacher=TEACHER, distillers=on_map(DENSE))
        model = toys.distilled('mmdet', **given)
        losses, stem = toys.losses_of(model, toys.det_batch()), model.backbone.conv1.weight
    for name in model.distillers:
        loss = sum(value for key, value in losses.items() if key.startswith(f'distill.{name}.loss_'))
        (grad,) = torch.autograd.grad(loss, stem, retain_graph=True)
        assert loss.isfinite() and loss > 0 and grad.isfinite().all() and grad.abs().sum() > 0, name
    toys.total(losses).backward()
    assert all(parameter.grad is None for parameter in toys.teacher_of(model).network.parameters())
    assert not any('blocks' in name for name in model.state_dict())
