_base_ = './reppoints_x101_to_r50_coco.py'
model = dict(
    inherit=[('neck', 'neck'), ('bbox_head', 'bbox_head')],
    distillers=dict(maskd=dict(loss_weight=15.0, student_mask_from=8500)),
)
work_dir = 'work_dirs/maskd/{{ fileBasenameNoExtension }}'
