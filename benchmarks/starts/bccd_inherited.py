"""RetinaNet that starts with the head of its teacher."""

_base_ = '../../configs/_base_/recipes/retinanet_mobilenetv2_to_r18w16_bccd.py'
model = dict(inherit=[('bbox_head', 'bbox_head')])
