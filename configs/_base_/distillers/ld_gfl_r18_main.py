"""LD for a ResNet-18 in the main region alone; published with 3 pictures a GPU, see `ld_gfl_r18.py`."""

# fits: pair gfl, student r18|r34, variant main
_base_ = './ld_gfl_main.py'
distillers = dict(ld=dict(main_weight=0.375))
