"""QueueKL with the class token of a foundation model, the teacher's own vector of a picture; untested here."""

# fits: maps
distillers = dict(queuekl=dict(type='QueueKL', student_tap='backbone[-1]', teacher_tap='cls', temperature=0.07))
