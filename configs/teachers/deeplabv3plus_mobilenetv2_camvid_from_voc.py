_base_ = './deeplabv3plus_mobilenetv2_camvid.py'
checkpoint = (
    '{{$MMDISTILL_WEIGHTS:weights}}/mobilenet_v2_w1.0_voc.pth'  # segments already: a better start than ImageNet
)
model = dict(backbone=dict(init_cfg=dict(checkpoint=checkpoint)))
