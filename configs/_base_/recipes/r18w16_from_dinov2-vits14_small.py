_base_ = [
    '../pairs/r18w16_from_dinov2-vits14.py',
    '../datasets/unlabeled_small_one_view.py',
    '../schedules/pcd_adamw_40e.py',
    '../runtime_pretrain.py',
]
