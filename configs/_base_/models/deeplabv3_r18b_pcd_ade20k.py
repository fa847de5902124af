"""The same for ADE20K."""

_base_ = './deeplabv3_r18b_pcd.py'
model = dict(
    student=dict(
        data_preprocessor=dict(size=(512, 512)),
        decode_head=dict(num_classes=150),
        auxiliary_head=dict(num_classes=150),
    )
)
