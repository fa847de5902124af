"""Runs that resume end in the bits of one that was not interrupted: methods that keep something, all in one run."""

import torch

from tests import toys
from tests.distillers.test_pcd import WIDE_HEAD

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
    toys.train(tmp_path / 'whole', model, iters=4, **data)
    again = dict(resume=True, load_from=str(tmp_path / 'whole/iter_2.pth'))
    runner = toys.train(tmp_path / 'resumed', model, iters=4, **again, **data)
    early, whole, resumed = (
        torch.load(tmp_path / name, weights_only=False)
        for name in ('whole/iter_2.pth', 'whole/iter_4.pth', 'resumed/iter_4.pth')
    )
    for part in ('state_dict', 'distillers', 'ema_state_dict'):
        assert not toys.differing(whole[part], resumed[part]), part
    kept = whole['distillers']
    assert (kept['pcd.queue.ptr'], kept['match.parts.0.seen'], kept['queue.parts.0.ptr']) == (3, 4, 2)
    assert kept['auto.chosen_size'].tolist() == [256, 64] and runner.model.distillers['auto'].queue.size == 256
    assert kept['cirkd.parts.0.queues.region.rows'].shape[:2] == (toys.NUM_CLASSES, 3)
    assert {'cirkd.parts.0.queues.pixel.rows', 'mgd.parts.0.0.weight'} <= set(toys.differing(early['distillers'], kept))
