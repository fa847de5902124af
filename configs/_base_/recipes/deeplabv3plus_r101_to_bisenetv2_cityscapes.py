"""BiSeNetV2 (mIoU 73.21 alone), taught by DeepLabV3+ with ResNet-101 (80.97), in crops of 1024x1024."""

# pair: deeplabv3plus_r101_to_bisenetv2_cityscapes
_base_ = ['../datasets/cityscapes_1024x1024_stock.py', '../schedules/_iterations.py', '../runtime_seg.py']
model = dict(
    type='mmdistill_dense.DistillModel',
    student=dict(cfg='mmseg::bisenetv2/bisenetv2_fcn_4xb4-160k_cityscapes-1024x1024.py'),
    teacher=dict(cfg='mmseg::deeplabv3plus/deeplabv3plus_r101-d8_4xb2-80k_cityscapes-512x1024.py', checkpoint='auto'),
)
zoo = __import__('mmengine').Config.fromfile(__import__('mmdistill_dense').base(model['student']['cfg']))
optim_wrapper = zoo.optim_wrapper
param_scheduler = zoo.param_scheduler
train_cfg = zoo.train_cfg
train_dataloader = dict(batch_size=zoo.train_dataloader.batch_size)
default_hooks = dict(checkpoint=dict(interval=train_cfg.val_interval))
auto_scale_lr = dict(enable=False, base_batch_size=16)
del zoo
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
