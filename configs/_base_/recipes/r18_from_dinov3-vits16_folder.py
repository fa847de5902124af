_base_ = [
    '../pairs/r18_from_dinov3-vits16.py',
    '../datasets/unlabeled_folder_one_view.py',
    '../schedules/foundation_100e.py',
    '../runtime_pretrain.py',
]
