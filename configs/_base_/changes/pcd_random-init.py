"""A backbone from random weights, to compare PCD's pre-training with."""

# fits: pair coco|r18b, variant random-init
# changes: pcd-init
model = dict(student=dict(backbone=dict(init_cfg=None)))
