"""The third distillation method of lightly-train: relations of the tokens, and QueueKL with the class token."""

# fits: maps, pretrain
_base_ = './tokenrelations_pretrain.py'
distillers = dict(tokenrelations=dict(teacher_tap='map'), queuekl=dict(teacher_tap='cls'))
