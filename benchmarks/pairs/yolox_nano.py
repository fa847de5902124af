"""YOLOX-nano with AdamW, which learns faster from random weights than the zoo's SGD."""

_base_ = __import__('mmdistill_dense').base('mmdet::yolox/yolox_nano_8xb8-300e_coco.py')
optim_wrapper = dict(_delete_=True, type='OptimWrapper', optimizer=dict(type='AdamW', lr=4e-3, weight_decay=0.01))
