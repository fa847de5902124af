_base_ = [
    '../_base_/models/toy_det_teacher.py',
    '../_base_/datasets/shapes_det.py',
    '../_base_/schedules/toy_det_3e.py',
    '../_base_/runtime_det.py',
]
param_scheduler = _base_.param_scheduler
param_scheduler[1].update(T_max=5, end=5)
train_cfg = dict(max_epochs=5, val_interval=5)
work_dir = 'work_dirs/demo_det/teacher'  # where the pair looks for the weights
