"""As mmseg trains PIDNet-S: crops of 1024x1024, with the edges that its boundary branch learns."""

_base_ = [
    '../pairs/pidnet_l_to_pidnet_s_cityscapes.py',
    '../datasets/cityscapes_1024x1024_stock.py',
    '../schedules/sgd_120k.py',
    '../runtime_seg.py',
]
train_pipeline = [*_base_.train_pipeline[:-1], dict(type='GenerateEdge', edge_width=4), _base_.train_pipeline[-1]]
train_dataloader = dict(batch_size=6, dataset=dict(pipeline=train_pipeline))
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
