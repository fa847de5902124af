"""Af-DCD with logit KD on three stages of the small CamVid pair, all weights falling to 0 over the run.

The released CamVid weight, converted to a mean, is 33 (fd 8e-6 times 2048 x 45 x 45). MobileNetV2's last stage is
not rectified (mean square 4.8), so 3.3 compares. With 46 labels (benchmarks/camvid_1of8.yaml, seed 7) mIoU on val and
on the other 321 training pictures was 48.5 and 46.3 with these, 48.4 and 44.6 without a teacher. On the last stage
alone: 46.9 and 43.4 with 3.3 and contrast 0.01, 48.6 and 45.0 with 0.33 and 0.001, 47.5 and 44.2 with 1.0 and 0.003
that fall. No pooling: 12 x 15 positions in the last two stages.
"""

# fits: student r18w16, data camvid
distillers = dict(
    kd=dict(type='LogitKD', loss_weight=1.0, schedule=dict(ramp_down=(0, 1.0))),
    afdcd=dict(
        type='AfDCD',
        student_tap=['backbone[1]', 'backbone[2]', 'backbone[3]'],
        fd_weight=1.0,
        fd_reduction='mean',
        ctr_weight=0.003,
        pool_size=0,
        schedule=dict(ramp_down=(0, 1.0)),
    ),
)
