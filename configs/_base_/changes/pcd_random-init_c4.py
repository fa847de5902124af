"""A backbone from random weights, the part in the head too."""

# fits: pair c4 coco, variant random-init
# changes: pcd-init
model = dict(student=dict(backbone=dict(init_cfg=None), roi_head=dict(shared_head=dict(init_cfg=None))))
