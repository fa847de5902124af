"""MasKD on four levels of the small CamVid pair, as on a detector's neck; the weight falls to 0 over the run.

Each level has its tokens and its branch. With 46 labels (benchmarks/camvid_1of8.yaml, seed 7) mIoU on val and on the
other 321 training pictures was 48.9 and 47.9 with these, 48.4 and 44.6 without a teacher. On the last level alone:
46.1 and 45.3 with weight 1, 46.7 and 44.4 with 10, 47.5 and 45.6 with 10 that falls; on class scores 46.4 and 44.5.
"""

# fits: student r18w16, data camvid
_base_ = './maskd_r18w16_camvid_scores.py'
distillers = dict(
    maskd=dict(
        student_tap=['backbone[1]', 'backbone[2]', 'backbone[3]', 'decode_head.sep_bottleneck'],
        weight_mask=True,
        align='conv',
        factor=1.0,
        loss_weight=3.0,
        schedule=dict(ramp_down=(0, 1.0)),
    )
)
