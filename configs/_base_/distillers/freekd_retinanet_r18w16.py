"""FreeKD for our small RetinaNet pairs: learning the tokens is as short as MasKD's."""

# fits: pair retinanet, student r18w16
_base_ = './freekd_retinanet.py'
distillers = dict(freekd=dict(learn=dict(max_iters=400, save_interval=100)))
