_base_ = [
    '../pairs/segformer_b4_to_b0_cityscapes.py',
    '../datasets/cityscapes_1024x1024_stock.py',
    '../schedules/segformer_160k.py',
    '../runtime_seg.py',
]
auto_scale_lr = dict(base_batch_size=8)
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
