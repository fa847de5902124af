"""FreeKD for FCOS: ours, tokens learned with clipped gradients as MasKD's, because its teacher was."""

# fits: pair fcos
_base_ = './freekd_det.py'
distillers = dict(freekd=dict(learn=dict(clip_grad=dict(max_norm=35, norm_type=2))))
