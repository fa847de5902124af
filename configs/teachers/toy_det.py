_base_ = [
    '../_base_/models/toy_det_teacher.py',
    '../_base_/datasets/shapes_det.py',
    '../_base_/schedules/toy_det_5e.py',
    '../_base_/runtime_det.py',
]
work_dir = 'work_dirs/demo_det/teacher'  # where the pair looks for the weights
