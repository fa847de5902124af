"""SimReg as pre-training: the mean of the teacher's backbone, and the released head of four layers; untested."""

# fits: pretrain
distillers = dict(simreg=dict(type='SimReg', student_tap='backbone[-1]', teacher_tap='backbone[-1]'))
