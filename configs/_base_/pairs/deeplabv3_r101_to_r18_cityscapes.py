"""DeepLabV3: ResNet-101 teaches ResNet-18. As in the Af-DCD code: aligned corners, loss over labelled pixels.

So is the teacher's loss, by which MasKD learns its tokens; the corners are those that it was trained with.
"""

model = dict(
    type='mmdistill_dense.DistillModel',
    student=dict(
        cfg='mmseg::deeplabv3/deeplabv3_r18-d8_4xb2-80k_cityscapes-512x1024.py',
        decode_head=dict(align_corners=True, loss_decode=dict(avg_non_ignore=True)),
        auxiliary_head=dict(align_corners=True, loss_decode=dict(avg_non_ignore=True)),
    ),
    teacher=dict(
        cfg='mmseg::deeplabv3/deeplabv3_r101-d8_4xb2-80k_cityscapes-512x1024.py',
        checkpoint='auto',
        decode_head=dict(loss_decode=dict(avg_non_ignore=True)),
    ),
)
