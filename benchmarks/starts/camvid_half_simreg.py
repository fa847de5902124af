"""The student of camvid_starts.yaml from a backbone that was pre-trained by SimReg."""

_base_ = '../../configs/_base_/recipes/deeplabv3plus_mobilenetv2_to_r18w16_camvid.py'
model = dict(
    student=dict(
        backbone=dict(
            init_cfg=dict(
                type='Pretrained', checkpoint='work_dirs/pcd/pretrain_simreg/epoch_40.pth', prefix='backbone.'
            )
        )
    ),
)
