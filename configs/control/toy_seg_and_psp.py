_base_ = [
    '../_base_/pairs/toy_seg_and_psp.py',
    '../_base_/datasets/shapes_96x128.py',
    '../_base_/schedules/toy_600.py',
    '../_base_/runtime_seg.py',
]
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
