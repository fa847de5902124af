"""The same for DeepLabV3 on torchvision's ResNet-18 (r18b)."""

# fits: pair r18b, variant random-init
# changes: pcd-init
_base_ = './pcd_random-init.py'
