"""The detection pair on generated data. Its teacher: configs/teachers/toy_det.py, which `make demo-det` trains too."""

# pair: toy_det
_base_ = [
    '../datasets/shapes_det.py',
    '../schedules/toy_det_3e.py',
    '../runtime_det.py',
]
model = dict(
    type='mmdistill_dense.DistillModel',
    student=dict(cfg='mmdistill_dense::_base_/models/toy_det_student.py'),
    teacher=dict(
        cfg='mmdistill_dense::_base_/models/toy_det_teacher.py', checkpoint='work_dirs/demo_det/teacher/epoch_5.pth'
    ),
)
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
