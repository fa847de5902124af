"""MasKD for Deformable DETR with the start of its author: the whole transformer and its heads are the teacher's."""

_base_ = [
    '../_base_/recipes/deformable_detr_r50_to_r18_coco_maskd.py',
    '../_base_/distillers/maskd_deformable_detr.py',
]
norms = ('memory_trans_fc', 'memory_trans_norm', 'pos_trans_fc', 'pos_trans_norm')
inherited = ('encoder', 'decoder', 'bbox_head', *norms, 'level_embed')
model = dict(distillers=_base_.distillers, inherit=[(part, part) for part in inherited])
work_dir = 'work_dirs/maskd/{{ fileBasenameNoExtension }}'
