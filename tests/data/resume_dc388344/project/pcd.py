"""The student of control.py, taught by the method pcd."""

_base_ = './control.py'
model = dict(
    distillers=dict(
        pcd=dict(
            type='PCD',
            student_tap='auto',
            balance=dict(ratio='auto'),
            schedule=dict(ramp_down=(0, 1.0)),
            queue_size='auto',
            keys_per_image=1,
            enqueue='pixels',
            num_pixels=512,
            head=dict(type='linear'),
            queue_init='empty',
        ),
    ),
)
work_dir = '{{ fileDirname }}/work/{{ fileBasenameNoExtension }}'
