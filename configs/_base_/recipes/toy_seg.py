_base_ = [
    '../pairs/toy_seg.py',
    '../datasets/shapes_96x128.py',
    '../schedules/toy_600.py',
    '../runtime_seg.py',
]
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
