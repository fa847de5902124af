"""The narrow network of CamVid, its backbone pre-trained by PCD on the small data sets."""

_base_ = './deeplabv3plus_r18w16_camvid.py'
model = dict(
    backbone=dict(
        init_cfg=dict(
            type='Pretrained',
            checkpoint='work_dirs/pcd/r18w16_from_mobilenetv2_small/epoch_100.pth',
            prefix='backbone.',
        )
    )
)
