"""Af-DCD with logit KD for the small CamVid pair, a tenth of the published weights.

The released CamVid weight, freed from the map's size, is 33 (fd 8e-6 times 2048 x 45 x 45). MobileNetV2's last stage is
not rectified (mean square 4.8), so 3.3 compares. With 46 labels (benchmarks/camvid_1of8.yaml, seed 7) mIoU on val and
on the other 321 training pictures was 46.9 and 43.4 with 3.3 and contrast 0.01, 48.6 and 45.0 with these, 48.4 and 44.6
without a teacher. No pooling: 12 x 15 positions.
"""

distillers = dict(
    kd=dict(type='LogitKD', loss_weight=1.0),
    afdcd=dict(type='AfDCD', fd_weight=0.33, fd_reduction='mean', ctr_weight=0.001, pool_size=0),
)
