"""Pre-training: DINOv3 ViT-S/16 teaches a ViT of half its width, whose weights are exported under DINOv3's names."""

_base_ = './r18_from_dinov3-vits16.py'
model = dict(student=dict(backbone=dict(_delete_=True, type='mmdistill_dense.VisionTransformer', model='vit_tiny16')))
