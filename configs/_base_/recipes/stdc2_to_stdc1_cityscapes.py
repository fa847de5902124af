"""STDC, both from ImageNet: 2 (mIoU 76.67) teaches 1 (74.94 alone)."""

# pair: stdc2_to_stdc1_cityscapes
_base_ = ['../datasets/cityscapes_512x1024_stock.py', '../schedules/_iterations.py', '../runtime_seg.py']
model = dict(
    type='mmdistill_dense.DistillModel',
    student=dict(cfg='mmseg::stdc/stdc1_in1k-pre_4xb12-80k_cityscapes-512x1024.py'),
    teacher=dict(cfg='mmseg::stdc/stdc2_in1k-pre_4xb12-80k_cityscapes-512x1024.py', checkpoint='auto'),
)
zoo = __import__('mmengine').Config.fromfile(__import__('mmdistill_dense').base(model['student']['cfg']))
optim_wrapper = zoo.optim_wrapper
param_scheduler = zoo.param_scheduler
train_cfg = zoo.train_cfg
train_dataloader = dict(batch_size=zoo.train_dataloader.batch_size)
default_hooks = dict(checkpoint=dict(interval=train_cfg.val_interval))
auto_scale_lr = dict(enable=False, base_batch_size=48)
del zoo
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
