"""Mask2Former: Swin-L from ImageNet-22k (mIoU 83.65) teaches ResNet-50 (80.44 alone).

Its scores are masks of queries, so the methods are those that compare stages of the backbone.
"""

# methods: cankd, freekd, mgd, pcd
# pair: mask2former_swin-l_to_mask2former_r50_cityscapes
_base_ = ['../datasets/cityscapes_512x1024_stock.py', '../schedules/_iterations.py', '../runtime_seg.py']
model = dict(
    type='mmdistill_dense.DistillModel',
    student=dict(cfg='mmseg::mask2former/mask2former_r50_8xb2-90k_cityscapes-512x1024.py'),
    teacher=dict(
        cfg='mmseg::mask2former/mask2former_swin-l-in22k-384x384-pre_8xb2-90k_cityscapes-512x1024.py', checkpoint='auto'
    ),
)
zoo = __import__('mmengine').Config.fromfile(__import__('mmdistill_dense').base(model['student']['cfg']))
optim_wrapper = zoo.optim_wrapper
param_scheduler = zoo.param_scheduler
train_cfg = zoo.train_cfg
train_pipeline = zoo.train_pipeline
train_dataloader = dict(batch_size=zoo.train_dataloader.batch_size, dataset=dict(pipeline=train_pipeline))
default_hooks = dict(checkpoint=dict(interval=train_cfg.val_interval))
auto_scale_lr = dict(enable=False, base_batch_size=16)
custom_imports = dict(imports=[*_base_.custom_imports['imports'], 'mmdet.models'], allow_failed_imports=False)
del zoo
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
