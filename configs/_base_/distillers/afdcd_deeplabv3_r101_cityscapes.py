"""Af-DCD on Cityscapes, with the logit distillation that the published recipe adds.

Constants: the authors' training scripts (OSVAI/Af-DCD, lambda_kd, lambda_fd, lambda_ctr). What no script sets is
the default of AfDCD: temperature 0.07, 16 groups, patch 4x4, pooling 4, mask ratio 0.75, clipping at 15.

Their fd_weight multiplies a sum, so it is for their teacher's map alone: 2048 channels of 64x128, or 64x64 on VOC,
ADE20K and COCO-Stuff, 45x45 on CamVid. Other pairs have the same weights in units of the mean: `afdcd_seg`,
`afdcd_ade20k`, `afdcd_voc`, `afdcd_camvid`, `afdcd_cocostuff`.
"""

# fits: teacher deeplabv3 r101, data cityscapes
distillers = dict(
    kd=dict(type='LogitKD', loss_weight=1.0),
    afdcd=dict(type='AfDCD', fd_weight=2e-6, ctr_weight=0.005),
)
