"""TokenRelations as pre-training, with the temperature of lightly-train's third method; untested with real teachers.

It teaches relations within a picture alone; lightly-train adds QueueKL, which tells pictures apart.
"""

# fits: pretrain
distillers = dict(
    tokenrelations=dict(
        type='TokenRelations', student_tap='backbone[-1]', teacher_tap='head', temperature=0.07, num_pixels=None
    ),
    queuekl=dict(type='QueueKL', student_tap='backbone[-1]', teacher_tap='head', temperature=0.07, queue_init='zeros'),
)
