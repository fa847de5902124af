"""DeepLabV3: ResNet-101 teaches ResNet-18, CamVid. Its teacher: configs/teachers/deeplabv3_r101_camvid.py."""

_base_ = './deeplabv3_r101_to_r18_cityscapes.py'
model = dict(
    student=dict(
        data_preprocessor=dict(size=(360, 360)),
        decode_head=dict(num_classes=11),
        auxiliary_head=dict(num_classes=11),
    ),
    teacher=dict(
        cfg='mmdistill_dense::teachers/deeplabv3_r101_camvid.py',
        checkpoint='work_dirs/deeplabv3_r101_camvid/iter_40000.pth',
    ),
)
