"""As mmseg trains DDRNet-23-slim, in crops of 1024x1024."""

_base_ = [
    '../pairs/ddrnet_23_to_ddrnet_23-slim_cityscapes.py',
    '../datasets/cityscapes_1024x1024_stock.py',
    '../schedules/sgd_120k.py',
    '../runtime_seg.py',
]
train_dataloader = dict(batch_size=6)
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
