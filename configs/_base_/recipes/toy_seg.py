_base_ = [
    '../pairs/toy_seg.py',
    '../datasets/shapes_seg.py',
    '../schedules/toy_450.py',
    '../runtime_seg.py',
]
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
