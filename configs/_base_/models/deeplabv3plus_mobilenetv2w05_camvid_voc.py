"""DeepLabV3+ on a MobileNetV2 of half the width, from weights trained on PASCAL VOC's masks: 0.7 M parameters."""

_base_ = './deeplabv3plus_mobilenetv2w05_camvid.py'
model = dict(
    backbone=dict(
        init_cfg=dict(
            _delete_=True,
            type='Pretrained',
            checkpoint='{{$MMDISTILL_WEIGHTS:weights}}/mobilenet_v2_w0.5_voc.pth',
        ),
    ),
)
