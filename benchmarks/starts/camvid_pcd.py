"""The student of CamVid from a backbone that PCD pre-trained; camvid.yaml has the command."""

_base_ = '../../configs/_base_/recipes/deeplabv3plus_mobilenetv2_to_r18w16_camvid.py'
model = dict(
    student=dict(
        backbone=dict(
            init_cfg=dict(
                type='Pretrained',
                checkpoint='work_dirs/pcd/r18w16_from_mobilenetv2_small/epoch_40.pth',
                prefix='backbone.',
            )
        )
    ),
)
