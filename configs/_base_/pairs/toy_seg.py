"""The pair on generated data. Its teacher: configs/teachers/toy_seg.py, which `make demo` trains too."""

model = dict(
    type='mmdistill_dense.DistillModel',
    student=dict(cfg='mmdistill_dense::_base_/models/toy_student.py'),
    teacher=dict(cfg='mmdistill_dense::_base_/models/toy_teacher.py', checkpoint='work_dirs/demo/teacher/iter_700.pth'),
)
