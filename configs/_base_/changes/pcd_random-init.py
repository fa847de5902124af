"""A backbone from random weights, where PCD's pre-training is compared with it."""

# fits: variant random-init
# changes: pcd-init
model = dict(student=dict(backbone=dict(init_cfg=None)))
