_base_ = [
    '../pairs/r18_from_dinov2-vits14.py',
    '../datasets/unlabeled_folder_one_view.py',
    '../schedules/foundation_100e.py',
    '../runtime_pretrain.py',
]
