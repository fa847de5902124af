"""A small DINO that starts with the transformer, queries and heads of its teacher."""

_base_ = '../../configs/_base_/recipes/dino_mobilenetv2_to_r18w16_bccd.py'
parts = (
    'encoder', 'decoder', 'bbox_head', 'memory_trans_fc', 'memory_trans_norm', 'query_embedding', 'level_embed',
    'dn_query_generator',
)  # fmt: skip
model = dict(inherit=[(part, part) for part in parts])
del parts
