"""The schedule of MGD's segmentation code, mmseg's 40k iterations with its learning rate on twice the images: 16."""

_base_ = './sgd_40k.py'
optim_wrapper = dict(optimizer=dict(lr=0.01))
