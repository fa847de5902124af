_base_ = [
    '../_base_/pairs/segformer_b4_to_b0_cityscapes.py',
    '../_base_/datasets/cityscapes_1024x1024_stock.py',
    '../_base_/schedules/segformer_160k.py',
    '../_base_/runtime_seg.py',
]
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
