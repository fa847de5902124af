"""Runs that resume end in the bits of one that was not interrupted: methods that keep something, and detectors."""

import pytest
import torch

from tests import toys
from tests.distillers.steps import resumes_as_plain
from tests.distillers.test_crosskd import TWO
from tests.distillers.test_heads import MASKS
from tests.distillers.test_pcd import WIDE_HEAD
from tests.faults.tools import resumed_alike
from tests.query_nets import query_model, query_net

OPTIONS = dict(
    pcd=dict(type='PCD', queue_size=5, enqueue='pixels', center=True, num_pixels=20, head=WIDE_HEAD, attention={}),
    auto=dict(type='PCD', student_tap='backbone[3]', queue_size='auto', num_pixels=32),
    cirkd=dict(type='CIRKD', pixel_memory=40, region_memory=3),
    match=dict(type='FeatureMatch'),
    queue=dict(type='QueueKL', queue_size=3),
    seed=dict(type='QueueKL', queue_size=3, own_key=True),
    cankd=dict(type='CanKD', student_tap='backbone[3]'),
    simreg=dict(type='SimReg', head=dict(type='mlp4', hidden=8)),
    relations=dict(type='TokenRelations', num_pixels=9),
    mgd=dict(type='MGD', student_tap='backbone[3]', mask_ratio=0.75, alpha=2e-4),
)


def test_a_resumed_run_is_equal_bit_for_bit(tmp_path):
    """Queues, pointers, running means, pixels and masks that are drawn; keys wrap around PCD's queue of 5."""
    model = toys.model_config(toys.seg_net('fcn', dropout=0.1), toys.seg_teacher('fcn'), OPTIONS)
    hooks = dict(custom_hooks=[dict(type='EMAHook', momentum=0.1)])
    data = dict(hooks, train_dataloader=dict(dataset=dict(num_images=12)))
    runner, whole = resumed_alike(tmp_path, lambda folder, **more: toys.train(folder, model, iters=4, **data, **more))
    early, kept = torch.load(tmp_path / 'a/iter_2.pth', weights_only=False), whole['distillers']
    assert (kept['pcd.queue.ptr'], kept['match.parts.0.seen'], kept['queue.parts.0.ptr']) == (3, 4, 2)
    assert kept['auto.chosen_size'].tolist() == [256, 64] and runner.model.distillers['auto'].queue.size == 256
    assert kept['cirkd.parts.0.queues.region.rows'].shape[:2] == (toys.NUM_CLASSES, 3)
    assert {'cirkd.parts.0.queues.pixel.rows', 'mgd.parts.0.0.weight'} <= set(toys.differing(early['distillers'], kept))


HELD = toys.det_net('fcos', 16, channels=16, allow_random=True, **TWO)
ROI_MASKS = {'type': 'RoIHeadKD'} | {name: value for name, value in MASKS.items() if name != 'kind'}
DETECTORS = {  # student, what teaches it, options of the run
    'CrossKD': (toys.det_net('fcos', **TWO), (HELD, dict(type='CrossKD', reuse_from=1, settings='auto')), {}),
    'DeFeat': (toys.det_net('fcos'), (toys.det_teacher('gfl', 16, 16), dict(type='DeFeat')), {}),
    'masks': (toys.det_net('mask_rcnn'), (toys.det_teacher('cascade_mask_rcnn'), ROI_MASKS), dict(masks=True)),
    'KDDETR': (query_net('dino'), query_model('dino'), {}),
}


@pytest.mark.soak
@pytest.mark.parametrize('name', DETECTORS)
def test_a_detector_resumes_and_its_student_is_plain(name, tmp_path):
    student, taught, options = DETECTORS[name]
    model = taught if name == 'KDDETR' else toys.model_config(student, taught[0], dict(x=taught[1]))
    whole = resumes_as_plain(tmp_path, model, student, **options)
    assert name != 'DeFeat' or 'x.aligns.4.weight' in whole['distillers']
