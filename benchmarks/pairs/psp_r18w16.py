"""PSPNet on a ResNet-18 of a quarter of the width, from random weights."""

_base_ = '../../configs/_base_/models/pspnet_r18w16_camvid.py'
default_scope = 'mmseg'
