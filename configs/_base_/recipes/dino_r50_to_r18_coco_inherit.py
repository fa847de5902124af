"""DINO that starts from its teacher's transformer, query embeddings and heads, which learn at a tenth of the rate."""

_base_ = './dino_r50_to_r18_coco.py'
parts = ('encoder', 'decoder', 'bbox_head', 'memory_trans_fc', 'memory_trans_norm', 'query_embedding', 'level_embed')
model = dict(inherit=[(part, part) for part in (*parts, 'dn_query_generator')])
optim_wrapper = dict(constructor='mmdistill_dense.InheritedRate', paramwise_cfg=dict(inherited_lr_mult=0.1))
del parts
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
