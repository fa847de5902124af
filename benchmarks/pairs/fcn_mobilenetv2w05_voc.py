"""FCN on a MobileNetV2 of half the width, output stride 16, from weights trained on PASCAL VOC's masks."""

_base_ = '../../configs/_base_/models/deeplabv3plus_mobilenetv2w05_camvid_voc.py'
model = dict(
    decode_head=dict(
        _delete_=True,
        type='FCNHead',
        in_channels=160,
        in_index=3,
        channels=64,
        num_convs=1,
        concat_input=False,
        num_classes=11,
        norm_cfg=dict(type='BN', requires_grad=True),
    ),
)
default_scope = 'mmseg'
