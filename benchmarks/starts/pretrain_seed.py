"""SEED in the place of PCD."""

_base_ = '../../configs/pcd/mobilenetv2w05_from_mobilenetv2_small.py'
model = dict(
    distillers=dict(
        _delete_=True,
        queuekl=dict(
            type='QueueKL',
            student_tap='backbone[-1]',
            teacher_tap='head',
            temperature=0.01,
            student_temperature=0.2,
            queue_size=256,
            queue_init='random',
            own_key=True,
            head=dict(type='mlp', hidden=512),
        ),
    )
)
work_dir = 'work_dirs/pcd/{{ fileBasenameNoExtension }}'
