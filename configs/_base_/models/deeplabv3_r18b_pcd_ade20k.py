"""The same for ADE20K."""

_base_ = './deeplabv3_r18b_pcd_voc.py'
model = dict(student=dict(decode_head=dict(num_classes=150), auxiliary_head=dict(num_classes=150)))
