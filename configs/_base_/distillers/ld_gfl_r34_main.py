"""LD for a ResNet-34 in the main region alone; published with 3 pictures a GPU as for ResNet-18."""

# fits: pair gfl, student r34, variant main
_base_ = './ld_gfl_r18_main.py'
