_base_ = [
    '../_base_/pairs/toy_det.py',
    '../_base_/datasets/shapes_det.py',
    '../_base_/schedules/toy_det_3e.py',
    '../_base_/runtime_det.py',
]
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
