"""QueueKL as pre-training: lightly-train's first method, but that only written rows of the queue count; untested.

The mean of the adapted head's map is the teacher's own projected vector.
"""

# fits: pretrain
distillers = dict(queuekl=dict(type='QueueKL', student_tap='backbone[-1]', teacher_tap='head', temperature=0.07))
