"""SegNeXt: MSCAN-B (mIoU 48.03) teaches MSCAN-T (41.50 alone), which trains with the schedule of SegFormer."""

# pair: segnext_b_to_segnext_t_ade20k
_base_ = ['../datasets/ade20k_512x512_stock.py', '../schedules/segformer_160k.py', '../runtime_seg.py']
model = dict(
    type='mmdistill_dense.DistillModel',
    student=dict(cfg='mmseg::segnext/segnext_mscan-t_1xb16-adamw-160k_ade20k-512x512.py'),
    teacher=dict(cfg='mmseg::segnext/segnext_mscan-b_1xb16-adamw-160k_ade20k-512x512.py', checkpoint='auto'),
)
train_dataloader = dict(batch_size=16)
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
