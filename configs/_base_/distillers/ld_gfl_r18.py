"""LD for a ResNet-18: published with 3 pictures a GPU; 0.375 gives the sums over our 2 the weight of 0.25 over 3."""

# fits: pair gfl, student r18|r34
_base_ = './ld_gfl.py'
distillers = dict(ld=dict(main_weight=0.375, valuable_weight=0.375))
