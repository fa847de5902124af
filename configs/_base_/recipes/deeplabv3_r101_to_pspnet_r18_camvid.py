"""DeepLabV3 ResNet-101 teaches PSPNet ResNet-18, CamVid."""

# pair: deeplabv3_r101_to_pspnet_r18_camvid
_base_ = [
    '../pairs/deeplabv3_r101_to_r18_cityscapes.py',
    '../datasets/camvid_360x360.py',
    '../schedules/afdcd_40k.py',
    '../runtime_seg.py',
]
model = dict(
    student=dict(
        cfg='mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py',
        data_preprocessor=dict(size=(360, 360)),
        decode_head=dict(num_classes=11),
        auxiliary_head=dict(num_classes=11),
    ),
    teacher=dict(
        cfg='mmdistill_dense::teachers/deeplabv3_r101_camvid.py',
        checkpoint='work_dirs/deeplabv3_r101_camvid/iter_40000.pth',
    ),
)
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
