_base_ = [
    '../_base_/recipes/faster_rcnn_r101_to_r50_coco.py',
    '../_base_/distillers/_maskd_faster_rcnn_r101_inherit.py',
]
model = dict(
    distillers=_base_.distillers,
    inherit=[('neck', 'neck'), ('rpn_head', 'rpn_head'), ('roi_head.bbox_head', 'roi_head.bbox_head')],
)
work_dir = 'work_dirs/maskd/{{ fileBasenameNoExtension }}'
