"""The same for DeepLabV3 on torchvision's ResNet-18 (r18b)."""

# fits: pair r18b, variant supervised-init
# changes: pcd-init
_base_ = './pcd_supervised-init.py'
