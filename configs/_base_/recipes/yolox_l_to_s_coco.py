"""YOLOX: l (AP 49.4) teaches s (40.5 alone), with mosaic, mixing and sizes of 480 to 800, without them at the end.

Its class scores say nothing where no object is, so no method compares them.
"""

# pair: yolox_l_to_s_coco
_base_ = ['../datasets/coco_yolox.py', '../schedules/_epochs.py', '../runtime_det.py']
model = dict(
    type='mmdistill_dense.DistillModel',
    student=dict(cfg='mmdet::yolox/yolox_s_8xb8-300e_coco.py'),
    teacher=dict(cfg='mmdet::yolox/yolox_l_8xb8-300e_coco.py', checkpoint='auto'),
)
zoo = __import__('mmengine').Config.fromfile(__import__('mmdistill_dense').base(model['student']['cfg']))
optim_wrapper = zoo.optim_wrapper
param_scheduler = zoo.param_scheduler
train_cfg = zoo.train_cfg
custom_hooks = zoo.custom_hooks
default_hooks = dict(checkpoint=dict(interval=10, max_keep_ckpts=3))
auto_scale_lr = dict(enable=False, base_batch_size=64)
del zoo
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
