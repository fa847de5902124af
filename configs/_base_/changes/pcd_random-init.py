"""A backbone from random weights, where PCD's pre-training is compared with it."""

# fits: pair coco, variant random-init
# changes: pcd-init
model = dict(student=dict(backbone=dict(init_cfg=None)))
