"""FGD on an FPN's levels; constants of the authors' FCOS config (yzd-v/FGD): RepPoints' with a temperature of 0.8."""

# fits: pair fcos
distillers = dict(
    fgd=dict(type='FGD', student_tap='neck', temperature=0.8, alpha=1.6e-3, beta=8e-4, gamma=8e-4, lambda_=8e-6)
)
