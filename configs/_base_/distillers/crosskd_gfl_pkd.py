"""CrossKD on GFL's head beside PKD on the whole neck, as the authors combine them (jbwang1997/CrossKD)."""

# fits: pair gfl r101, variant pkd
_base_ = './crosskd_gfl.py'
distillers = dict(pkd=dict(type='PKD', student_tap='neck', loss_weight=6.0))
