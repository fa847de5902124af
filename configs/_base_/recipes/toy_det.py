_base_ = [
    '../pairs/toy_det.py',
    '../datasets/shapes_det.py',
    '../schedules/toy_det_3e.py',
    '../runtime_det.py',
]
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
