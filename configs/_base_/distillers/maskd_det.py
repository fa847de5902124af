"""MasKD on the features of any detector; our own choice: weight and start of the student's mask of the FCOS config."""

# fits: det
distillers = dict(maskd=dict(type='MasKD', loss_weight=10.0, student_mask_from=5000))
