"""CIRKD for SegFormer: smaller queues of pixels and maps pooled by 2 in the minibatch part.

Its features are the fused map before the head's dropout.
Source: `train_cirkd/citys/segformer_mit_b0.sh` and `train_cirkd_segformer.py`.
"""

# fits: teacher segformer b4, student b0
_base_ = './cirkd_seg.py'
distillers = dict(cirkd=dict(student_tap='decode_head.fusion_conv', pool=2, pixel_memory=2000))
