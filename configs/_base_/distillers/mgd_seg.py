"""MGD on the last stage of the backbone; constants of the authors' Cityscapes configs (yzd-v/MGD, seg), crop 512 x 512.

The sum grows with the map: a crop of 512 x 1024 doubles it.
"""

# fits: seg
distillers = dict(mgd=dict(type='MGD', student_tap='backbone[3]', mask_ratio=0.75, alpha=2e-5))
