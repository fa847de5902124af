"""PCD beside the labels for any segmentation pair: pixels as keys, on three stages, with a weight that falls to 0.

The settings that gain on CamVid (`pcd_r18w16_camvid.py`, docs/results.md), but for the head's features, which two
networks rarely share; on larger data they are untested. Each stage has a head and a queue of 64 random pixels of each
of 64 pictures: for data of 192 pictures or more, so that at most a third of them is in it. With the empty queue the
loss begins at 0 and rises while the queue fills. Variant `pooled`: one key a picture.
"""

# fits: seg
distillers = dict(
    pcd=dict(
        type='PCD',
        student_tap=['backbone[1]', 'backbone[2]', 'backbone[3]'],
        queue_size=4096,
        queue_init='empty',
        enqueue='pixels',
        keys_per_image=64,
        num_pixels=512,
        loss_weight=3.0,
        schedule=dict(ramp_down=(0, 1.0)),
    )
)
