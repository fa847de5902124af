"""FitNet for SegFormer: the fused map before the head's dropout, which CIRKD's SegFormer gives for its features."""

# fits: teacher segformer b4, student b0
_base_ = './fitnet_seg.py'
distillers = dict(fitnet=dict(student_tap='decode_head.fusion_conv'))
