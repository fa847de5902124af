"""PCD beside the labels on four levels of the small CamVid pair; the weight falls to 0 over the run.

Each level has a head and a queue of 64 random pixels of each of 15 pictures: less than a third of 46, the fewest
labels used. With those 46 (benchmarks/camvid_1of8.yaml, seed 7) mIoU on val and on the other 321 training pictures was
49.0 and 48.3 with these, 48.4 and 44.6 without a teacher. With one pooled key a picture, K = 15: 48.3 and 46.5, with
weight 1 49.0 and 46.6; on the last stage alone 49.3 and 46.3 with weight 0.5, 50.8 and 46.3 with 2 that falls.
"""

# fits: student r18w16, data camvid
_base_ = './pcd_seg.py'
distillers = dict(
    pcd=dict(
        student_tap=['backbone[1]', 'backbone[2]', 'backbone[3]', 'decode_head.sep_bottleneck'],
        queue_size=960,
    )
)
