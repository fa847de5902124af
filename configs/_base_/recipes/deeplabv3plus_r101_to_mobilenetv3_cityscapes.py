"""MobileNetV3-L with LR-ASPP (mIoU 69.54 alone), taught by DeepLabV3+ with ResNet-101 (80.97).

The published score is of 320,000 iterations, as the name of mmseg's config says; the file itself stops after 160,000.
"""

# pair: deeplabv3plus_r101_to_mobilenetv3_cityscapes
_base_ = ['../datasets/cityscapes_512x1024_stock.py', '../schedules/_iterations.py', '../runtime_seg.py']
model = dict(
    type='mmdistill_dense.DistillModel',
    student=dict(cfg='mmseg::mobilenet_v3/mobilenet-v3-d8_lraspp_4xb4-320k_cityscapes-512x1024.py'),
    teacher=dict(cfg='mmseg::deeplabv3plus/deeplabv3plus_r101-d8_4xb2-80k_cityscapes-512x1024.py', checkpoint='auto'),
)
zoo = __import__('mmdistill_dense').base('mmseg::_base_/schedules/schedule_320k.py')
schedule = __import__('mmengine').Config.fromfile(zoo)
optim_wrapper = schedule.optim_wrapper
param_scheduler = schedule.param_scheduler
train_cfg = schedule.train_cfg
train_dataloader = dict(batch_size=4)
default_hooks = dict(checkpoint=dict(interval=train_cfg.val_interval))
auto_scale_lr = dict(enable=False, base_batch_size=16)
del schedule, zoo
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
