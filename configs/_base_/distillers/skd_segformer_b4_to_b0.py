"""SKD for SegFormer: the fused map before the head's dropout, which CIRKD's SegFormer gives for its features."""

# fits: teacher segformer b4, student b0
_base_ = './skd_seg.py'
distillers = dict(skd=dict(student_tap='decode_head.fusion_conv'))
