_base_ = './faster_rcnn_r101_to_r50_coco.py'
model = dict(
    inherit=[('neck', 'neck'), ('rpn_head', 'rpn_head'), ('roi_head.bbox_head', 'roi_head.bbox_head')],
    distillers=dict(maskd=dict(loss_weight=3.0)),
)
work_dir = 'work_dirs/maskd/{{ fileBasenameNoExtension }}'
