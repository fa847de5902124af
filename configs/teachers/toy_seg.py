_base_ = [
    '../_base_/models/toy_teacher.py',
    '../_base_/datasets/shapes_seg.py',
    '../_base_/schedules/toy_700.py',
    '../_base_/runtime_seg.py',
]
work_dir = 'work_dirs/demo/teacher'  # where the pair looks for the weights
