"""The same for PASCAL VOC 2012."""

_base_ = './deeplabv3_r18b_pcd.py'
model = dict(
    student=dict(
        data_preprocessor=dict(size=(512, 512)),
        decode_head=dict(num_classes=21),
        auxiliary_head=dict(num_classes=21),
    )
)
