"""Two teachers on generated data: those of configs/teachers/toy_seg.py, which `make demo` trains, and toy_psp.py."""

_base_ = './toy_seg.py'
model = dict(
    teacher=dict(
        _delete_=True,
        aspp=dict(
            cfg='mmdistill_dense::_base_/models/toy_teacher.py', checkpoint='work_dirs/demo/teacher/iter_700.pth'
        ),
        psp=dict(cfg='mmdistill_dense::teachers/toy_psp.py', checkpoint='work_dirs/toy_psp/iter_700.pth'),
    )
)
