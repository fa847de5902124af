"""PKD for DINO that starts from its teacher's transformer, queries and heads, which learn at a tenth of the rate."""

_base_ = ['../_base_/recipes/dino_r50_to_r18_coco.py', '../_base_/distillers/pkd_det.py']
parts = ('encoder', 'decoder', 'bbox_head', 'memory_trans_fc', 'memory_trans_norm', 'query_embedding', 'level_embed')
model = dict(distillers=_base_.distillers, inherit=[(part, part) for part in (*parts, 'dn_query_generator')])
optim_wrapper = dict(constructor='mmdistill_dense.InheritedRate', paramwise_cfg=dict(inherited_lr_mult=0.1))
del parts
work_dir = 'work_dirs/pkd/{{ fileBasenameNoExtension }}'
