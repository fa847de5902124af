_base_ = './faster_rcnn_cascade_mask_x101_to_r50_coco.py'
scores = dict(type='RoIHeadKD', student_tap='roi_head.bbox_head.fc_cls', output='cls_score', form='dist')
model = dict(inherit=[('neck', 'neck')], distillers=dict(maskd=dict(student_mask_from=8500), scores=scores))
optim_wrapper = dict(clip_grad=dict(max_norm=35, norm_type=2))
del scores
work_dir = 'work_dirs/maskd/{{ fileBasenameNoExtension }}'
