default_hooks = dict(
    checkpoint=dict(by_epoch=False, interval=4, type='CheckpointHook'),
    distill=dict(type='mmdistill_dense.DistillHook'),
    logger=dict(interval=1, log_metric_by_epoch=False, type='LoggerHook'),
    param_scheduler=dict(type='ParamSchedulerHook'),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    timer=dict(type='IterTimerHook'))
default_scope = 'mmdet'
log_level = 'ERROR'
log_processor = dict(by_epoch=False)
model = dict(
    distillers=dict(fgd=dict(balance=0.5, student_tap='neck', type='FGD')),
    student=dict(
        backbone=dict(
            base_channels=2,
            depth=18,
            frozen_stages=-1,
            init_cfg=None,
            norm_eval=False),
        bbox_head=dict(
            feat_channels=4, in_channels=4, num_classes=2, stacked_convs=1),
        cfg='mmdet::retinanet/retinanet_r18_fpn_1x_coco.py',
        neck=dict(in_channels=[
            2,
            4,
            8,
            16,
        ], out_channels=4)),
    teacher=dict(
        backbone=dict(
            base_channels=2,
            depth=18,
            frozen_stages=-1,
            init_cfg=None,
            norm_eval=False),
        bbox_head=dict(
            feat_channels=4, in_channels=4, num_classes=2, stacked_convs=1),
        cfg='mmdet::retinanet/retinanet_r18_fpn_1x_coco.py',
        checkpoint='teacher.pth',
        neck=dict(in_channels=[
            2,
            4,
            8,
            16,
        ], out_channels=4)),
    type='mmdistill_dense.DistillModel')
optim_wrapper = dict(
    clip_grad=dict(max_norm=5),
    optimizer=dict(lr=0.01, momentum=0.9, type='SGD'),
    type='OptimWrapper')
randomness = dict(seed=5)
train_cfg = dict(max_iters=8, type='IterBasedTrainLoop', val_interval=1000000)
train_dataloader = dict(
    batch_size=2,
    collate_fn=dict(type='pseudo_collate'),
    dataset=dict(
        ann_file='pictures/boxes.json',
        data_prefix=dict(img='pictures/img'),
        metainfo=dict(classes=(
            'red',
            'blue',
        )),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations', with_bbox=True),
            dict(prob=0.5, type='RandomFlip'),
            dict(type='PackDetInputs'),
        ],
        serialize_data=False,
        type='CocoDataset'),
    num_workers=0,
    sampler=dict(shuffle=True, type='InfiniteSampler'))
work_dir = 'work'
