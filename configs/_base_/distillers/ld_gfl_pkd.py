"""LD on the head of GFL beside PKD on the neck, each with the weight of its authors: an example of two methods."""

# fits: pair gfl, variant pkd
_base_ = './ld_gfl.py'
distillers = dict(pkd=dict(type='PKD', student_tap='neck[:4]', loss_weight=10.0))
