_base_ = [
    '../pairs/segformer_b4_to_b0_ade20k.py',
    '../datasets/ade20k_512x512_stock.py',
    '../schedules/segformer_160k.py',
    '../runtime_seg.py',
]
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
