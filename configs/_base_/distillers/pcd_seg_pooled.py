"""PCD beside the labels with one pooled key a picture, on the last stage; on CamVid it gained nothing.

At most a third of the training images fits the queue, or an image meets its own earlier keys. With the empty queue the
loss begins at 0 and rises while the queue fills. With 512 pixels a picture the head costs a step some 5 %, not 10.
"""

# fits: seg, variant pooled
distillers = dict(
    pcd=dict(
        type='PCD', student_tap='backbone[3]', queue_size=1024, queue_init='empty', num_pixels=512, loss_weight=0.1
    )
)
