"""QueryMatch as pre-training, GKD's first stage without its terms for transformers as students; untested."""

# fits: pretrain
distillers = dict(querymatch=dict(type='QueryMatch', student_tap='backbone[-1]', teacher_tap='head'))
