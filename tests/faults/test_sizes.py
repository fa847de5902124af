"""Batches at the edge of what there is: one picture of an odd size, one class, no box. Every method trains on them, or
says why not."""

from typing import Any

import pytest
import torch
from mmengine.registry import init_default_scope

from mmdistill_dense.datasets.shapes import CLASSES
from mmdistill_dense.registry import DATASETS, DISTILLERS
from tests import toys
from tests.distillers.test_ways import CASES
from tests.faults.tools import whole

ODD = (53, 47)
LEARN = dict(max_iters=2, save_interval=2, log_interval=2)
SEG: dict[str, dict[str, Any]] = {}  # every way of each method in a segmentor
for title, (option, more) in CASES.items():
    if not more.get('detects') and title != 'MaskedMimic':
        SEG[title.replace(' ', '_')] = dict(option, type=title.split()[0])
for option in SEG.values():
    option.pop('num_classes', None)
    option.update(dict(learn=LEARN) if 'num_tokens' in option else {})
ONE_SCORE = dict(activation='sigmoid', beta=0.0)  # a softmax over one score is always 1
DENSE: dict[str, dict[str, Any]] = dict(
    afdcd=dict(type='AfDCD', student_tap='neck[:2]', pool_size=0),
    at=dict(type='AT', student_tap='neck'),
    cwd=dict(type='CWD', student_tap='neck'),
    dist=dict(type='DIST', student_tap='bbox_head.gfl_cls', **ONE_SCORE),
    defeat=dict(type='DeFeat'),
    fgd=dict(type='FGD', student_tap='neck'),
    frs=dict(type='FRS'),
    fitnet=dict(type='FitNet', student_tap='neck'),
    kd=dict(type='LogitKD', student_tap='bbox_head.gfl_cls', activation='sigmoid'),
    ld=dict(type='LD', class_weight=0.0),
    freekd=dict(type='FreeKD', num_tokens=2, learn=LEARN),
    maskd=dict(type='MasKD', num_tokens=2, learn=LEARN),
    mgd=dict(type='MGD', student_tap='neck'),
    cankd=dict(type='CanKD'),
    pcd=dict(type='PCD', student_tap='neck[:2]', queue_size=8, queue_init='random'),
    pkd=dict(type='PKD', student_tap='neck'),
    match=dict(type='FeatureMatch', student_tap='neck'),
    relations=dict(type='TokenRelations', student_tap='neck[:2]', diagonal=False),
)
REGIONS: dict[str, dict[str, Any]] = dict(roi=dict(type='RoIHeadKD'), pkd=dict(type='PKD', student_tap='neck'))


def test_every_method_is_tried() -> None:
    shipped = {name for name, one in DISTILLERS.module_dict.items() if one.__module__.startswith('mmdistill_dense.')}
    tried = {one['type'] for part in (SEG, DENSE, REGIONS) for one in part.values()}
    assert tried == shipped - {'CrossKD', 'KDDETR'}, 'whose teacher has the channels of the student'


def segmentation(classes: int) -> tuple[dict, dict]:
    """A pair with every method, and the changes to its run for pictures of an odd size, one at a time."""
    heads = dict(decode_head=dict(num_classes=classes), auxiliary_head=dict(num_classes=classes))
    size = dict(data_preprocessor=dict(size=ODD))
    student = toys.seg_net('fcn', **heads, **size)
    teacher = toys.seg_net('fcn', width=16, allow_random=True, **heads, **size)
    dataset = dict(painting=dict(size=ODD), metainfo=dict(classes=CLASSES[:classes]))
    distillers = SEG if classes > 1 else toys.merged(SEG, dict(LogitKD=dict(activation='sigmoid'), DIST=ONE_SCORE))
    for way in ('HeadOutputKD_by_softmax', 'LogitKD_standardised') if classes == 1 else ():
        del distillers[way]
    return toys.model_config(student, teacher, distillers), dict(train_dataloader=dict(batch_size=1, dataset=dataset))


@pytest.mark.parametrize('classes', [toys.NUM_CLASSES, 1])
def test_segmentation_of_one_odd_picture(tmp_path: Any, classes: int) -> None:
    model, changes = segmentation(classes)
    toys.train(tmp_path, model, iters=2, **changes)
    assert whole(tmp_path / 'iter_2.pth')['decode_head.conv_seg.weight'].shape[0] == classes


@DATASETS.register_module()
class Odd(toys.ToyDetDataset):
    """Pictures of an odd size with boxes of one class, or with none."""

    METAINFO = dict(classes=('thing',))
    boxes = True

    def __init__(self, boxes: bool = True, **kwargs: Any) -> None:
        self.boxes = boxes
        super().__init__(**kwargs)

    def __getitem__(self, index: int) -> dict:
        item = toys.det_item(self.seed, index, side=75)
        found = item['data_samples'].gt_instances
        found.labels.zero_()
        item['data_samples'].gt_instances = found if self.boxes else found[torch.zeros(len(found), dtype=torch.bool)]
        return item


@pytest.mark.parametrize('boxes', [pytest.param(True, marks=pytest.mark.soak), False], ids=['boxes', 'no boxes'])
@pytest.mark.parametrize(('kind', 'distillers'), [('gfl', DENSE), ('faster_rcnn', REGIONS)], ids=['gfl', 'faster_rcnn'])
def test_detection_of_one_odd_picture(tmp_path: Any, kind: str, distillers: dict, boxes: bool) -> None:
    init_default_scope('mmdet')
    heads: dict = dict(bbox_head=dict(num_classes=1))
    heads = dict(roi_head=heads) if kind == 'faster_rcnn' else heads
    teacher = toys.det_net(kind, 16, allow_random=True, **heads)
    config = toys.det_run_config(tmp_path, toys.model_config(toys.det_net(kind, **heads), teacher, distillers))
    config.train_dataloader.batch_size = 1
    config.train_dataloader.dataset = dict(type='mmdistill_dense.Odd', boxes=boxes)
    toys.train(None, config)
    whole(tmp_path / 'iter_2.pth')


def test_a_norm_over_one_value_is_an_error(tmp_path: Any) -> None:
    """The pooled branch of DeepLabV3 has one value a channel in batches of one picture."""
    model = toys.model_config(teacher=toys.seg_teacher())
    with pytest.raises(ValueError, match=r'Expected more than 1 value per channel when training'):
        toys.train(tmp_path, model, iters=1, train_dataloader=dict(batch_size=1))
