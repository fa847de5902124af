"""QueueKL with the constants of SEED and the class token of a foundation model."""

# fits: maps, pretrain, variant seed
_base_ = './queuekl_pretrain_seed.py'
distillers = dict(queuekl=dict(teacher_tap='cls'))
