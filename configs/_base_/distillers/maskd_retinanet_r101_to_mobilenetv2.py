"""MasKD for RetinaNet on MobileNetV2 taught by ResNet-101; constants of the second author's config (Gumpest/MasKD)."""

# fits: teacher retinanet r101, student mobilenetv2
_base_ = './maskd_retinanet_r101.py'
distillers = dict(maskd=dict(loss_weight=10.0, student_mask_from=8500))
