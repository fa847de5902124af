"""The detection pair on generated data. Its teacher: configs/teachers/toy_det.py, which `make demo-det` trains too."""

model = dict(
    type='mmdistill_dense.DistillModel',
    student=dict(cfg='mmdistill_dense::_base_/models/toy_det_student.py'),
    teacher=dict(
        cfg='mmdistill_dense::_base_/models/toy_det_teacher.py', checkpoint='work_dirs/demo_det/teacher/epoch_5.pth'
    ),
)
