"""RetinaNet's 2x schedule with gradients clipped at 35, as MGD trains."""

_base_ = './dense_2x.py'
optim_wrapper = dict(clip_grad=dict(max_norm=35, norm_type=2))
