"""CanKD on the last stage of the backbone; the weight of most of the authors' segmentors, 10 before their 1/2."""

# fits: seg
distillers = dict(cankd=dict(type='CanKD', student_tap='backbone[-1]', loss_weight=5.0))
