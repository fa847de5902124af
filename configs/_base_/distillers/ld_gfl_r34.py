"""LD for a ResNet-34: published with 3 pictures a GPU as for ResNet-18."""

# fits: pair gfl, student r34
_base_ = './ld_gfl_r18.py'
