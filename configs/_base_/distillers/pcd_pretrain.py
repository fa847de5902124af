"""PCD as pre-training, the constants of its code; hidden channels and bias of the head are the teacher's layout's.

The code has no attention; the paper describes the idea only. view_pairing 'cross' is the code's, 'same' compares pixels
that correspond: say with a result which one it used.
"""

# fits: pretrain
distillers = dict(
    pcd=dict(
        type='PCD',
        student_tap='backbone[-1]',
        teacher_tap='head',
        temperature=0.2,
        queue_size=65536,  # 5 % of ImageNet's images; with fewer images of your own, at most about a third of them
        queue_init='random',
        head=dict(type='mlp2'),
        attention=dict(num_heads=8),
        view_pairing='cross',
        num_pixels=None,
        resize='student',  # a larger last map of the student is pooled to the teacher's grid
    )
)
