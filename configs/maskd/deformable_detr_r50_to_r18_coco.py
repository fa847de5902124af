_base_ = ['../control/deformable_detr_r50_to_r18_coco_maskd.py', '../_base_/distillers/maskd_deformable_detr.py']
model = dict(distillers=_base_.distillers)
work_dir = 'work_dirs/maskd/{{ fileBasenameNoExtension }}'
