"""A training of detection with measured weights, and tokens that it learns at its start."""

default_scope = 'mmdet'
network = dict(
    type='RetinaNet',
    data_preprocessor=dict(
        type='DetDataPreprocessor', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True
    ),
    backbone=dict(
        type='ResNet',
        depth=18,
        base_channels=4,
        stem_channels=4,
        num_stages=2,
        strides=(1, 2),
        dilations=(1, 1),
        out_indices=(0, 1),
        frozen_stages=-1,
        norm_eval=False,
    ),
    neck=dict(type='FPN', in_channels=[4, 8], out_channels=8, num_outs=2),
    bbox_head=dict(
        type='RetinaHead',
        num_classes=2,
        in_channels=8,
        feat_channels=8,
        stacked_convs=1,
        anchor_generator=dict(
            type='AnchorGenerator', octave_base_scale=4, scales_per_octave=1, ratios=[1.0], strides=[4, 8]
        ),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder'),
        loss_cls=dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox=dict(type='L1Loss', loss_weight=1.0),
    ),
    train_cfg=dict(
        assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0, ignore_iof_thr=-1),
        sampler=dict(type='PseudoSampler'),
        allowed_border=-1,
        pos_weight=-1,
        debug=False,
    ),
    test_cfg=dict(nms_pre=100, min_bbox_size=0, score_thr=0.05, nms=dict(type='nms', iou_threshold=0.5), max_per_img=8),
)
model = dict(
    type='mmdistill_dense.DistillModel',
    student=network,
    teacher=dict(network, checkpoint='teacher.pth'),
    distillers=dict(
        fgd=dict(type='FGD', student_tap='neck', balance=0.5),
        maskd=dict(type='MasKD', student_tap='neck', num_tokens=2, student_mask_from=6, learn=dict(max_iters=4)),
    ),
)
train_dataloader = dict(
    batch_size=2,
    num_workers=0,
    collate_fn=dict(type='pseudo_collate'),
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='CocoDataset',
        ann_file='pictures/boxes.json',
        data_prefix=dict(img='pictures/img'),
        metainfo=dict(classes=('red', 'blue')),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations', with_bbox=True),
            dict(type='RandomFlip', prob=0.5),
            dict(type='PackDetInputs'),
        ],
    ),
)
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01, momentum=0.9), clip_grad=dict(max_norm=5))
train_cfg = dict(type='IterBasedTrainLoop', max_iters=8, val_interval=1000)
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=1, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=1000),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    distill=dict(type='mmdistill_dense.DistillHook'),
)
log_processor = dict(by_epoch=False, window_size=1)
randomness = dict(seed=5)
work_dir = 'work'
del network
