_base_ = [
    '../_base_/pairs/segformer_b4_to_b0_ade20k.py',
    '../_base_/datasets/ade20k_512x512_stock.py',
    '../_base_/schedules/segformer_160k.py',
    '../_base_/runtime_seg.py',
]
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
