"""QueueKL with the constants of SEED (temperatures 0.01 and 0.2, 65536 vectors, an MLP); its MLP has no batch norm."""

# fits: pretrain, variant seed
distillers = dict(
    queuekl=dict(
        type='QueueKL',
        student_tap='backbone[-1]',
        teacher_tap='head',
        temperature=0.01,
        student_temperature=0.2,
        queue_size=65536,
        queue_init='random',
        own_key=True,
        head=dict(type='mlp'),
    )
)
