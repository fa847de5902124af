"""SegFormer: B4 (mIoU 81.89) teaches B0 (76.54 alone), Cityscapes in crops of 1024x1024, tested in windows of them."""

# pair: segformer_b4_to_b0_cityscapes
_base_ = [
    '../pairs/segformer_b4_to_b0_ade20k.py',
    '../datasets/cityscapes_1024x1024_stock.py',
    '../schedules/segformer_160k.py',
    '../runtime_seg.py',
]
model = dict(
    student=dict(cfg='mmseg::segformer/segformer_mit-b0_8xb1-160k_cityscapes-1024x1024.py'),
    teacher=dict(cfg='mmseg::segformer/segformer_mit-b4_8xb1-160k_cityscapes-1024x1024.py'),
)
auto_scale_lr = dict(base_batch_size=8)
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
