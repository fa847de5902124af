"""100 epochs of AdamW on 128 images, for students with batch norm, as lightly-train's third method.

Its learning rate is 5e-4 for 1536 images and follows the square root of the batch: 1.44e-4 here. mmengine scales in
proportion, so auto_scale_lr is off: write 5e-4 * sqrt(batch / 1536) for another batch.
"""

_base_ = './pcd_100e.py'
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=1.44e-4, weight_decay=1e-6), clip_grad=dict(max_norm=1.0)
)
auto_scale_lr = dict(enable=False, base_batch_size=128)
