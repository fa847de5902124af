"""Pre-training: DINOv3 ViT-S/16 teaches a ViT of half its width, whose weights are exported under DINOv3's names."""

# pair: vit-tiny16_from_dinov3-vits16
_base_ = [
    '../pairs/r18_from_dinov3-vits16.py',
    '../datasets/unlabeled_folder_one_view.py',
    '../schedules/foundation_100e.py',
    '../runtime_pretrain.py',
]
model = dict(student=dict(backbone=dict(_delete_=True, type='mmdistill_dense.VisionTransformer', model='vit_tiny16')))
optim_wrapper = dict(optimizer=dict(weight_decay=0.04))  # the schedule's is for students with batch norm
