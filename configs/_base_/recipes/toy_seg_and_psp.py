"""Two teachers on generated data: those of configs/teachers/toy_seg.py, which `make demo` trains, and toy_psp.py."""

# pair: toy_seg_and_psp
_base_ = [
    '../pairs/toy_seg.py',
    '../datasets/shapes_seg.py',
    '../schedules/toy_450.py',
    '../runtime_seg.py',
]
model = dict(
    teacher=dict(
        _delete_=True,
        aspp=dict(
            cfg='mmdistill_dense::_base_/models/toy_teacher.py', checkpoint='work_dirs/demo/teacher/iter_700.pth'
        ),
        psp=dict(cfg='mmdistill_dense::teachers/toy_psp.py', checkpoint='work_dirs/toy_psp/iter_700.pth'),
    )
)
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
