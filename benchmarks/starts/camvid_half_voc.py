"""The student of camvid_starts.yaml from weights that were trained with labels."""

_base_ = '../../configs/_base_/recipes/deeplabv3plus_mobilenetv2_to_r18w16_camvid.py'
model = dict(
    student=dict(
        backbone=dict(
            init_cfg=dict(
                type='Pretrained', checkpoint='{{$MMDISTILL_WEIGHTS:weights}}/mobilenet_v2_w0.5_voc.pth', prefix=None
            )
        )
    ),
)
