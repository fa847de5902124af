"""FreeKD on the features of any detector: the released constants, frequencies 1 and squares 5."""

# fits: det
distillers = dict(freekd=dict(type='FreeKD', num_tokens=6, mse_weight=5.0))
