default_hooks = dict(
    checkpoint=dict(by_epoch=False, interval=1000, type='CheckpointHook'),
    distill=dict(type='mmdistill_dense.DistillHook'),
    logger=dict(interval=1, log_metric_by_epoch=False, type='LoggerHook'),
    param_scheduler=dict(type='ParamSchedulerHook'),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    timer=dict(type='IterTimerHook'))
default_scope = 'mmdet'
launcher = 'none'
log_processor = dict(by_epoch=False, window_size=1)
model = dict(
    distillers=dict(
        fgd=dict(balance=0.5, student_tap='neck', type='FGD'),
        maskd=dict(
            learn=dict(max_iters=4),
            num_tokens=2,
            student_mask_from=6,
            student_tap='neck',
            type='MasKD')),
    student=dict(
        backbone=dict(
            base_channels=4,
            depth=18,
            dilations=(
                1,
                1,
            ),
            frozen_stages=-1,
            norm_eval=False,
            num_stages=2,
            out_indices=(
                0,
                1,
            ),
            stem_channels=4,
            strides=(
                1,
                2,
            ),
            type='ResNet'),
        bbox_head=dict(
            anchor_generator=dict(
                octave_base_scale=4,
                ratios=[
                    1.0,
                ],
                scales_per_octave=1,
                strides=[
                    4,
                    8,
                ],
                type='AnchorGenerator'),
            bbox_coder=dict(type='DeltaXYWHBBoxCoder'),
            feat_channels=8,
            in_channels=8,
            loss_bbox=dict(loss_weight=1.0, type='L1Loss'),
            loss_cls=dict(
                alpha=0.25,
                gamma=2.0,
                loss_weight=1.0,
                type='FocalLoss',
                use_sigmoid=True),
            num_classes=2,
            stacked_convs=1,
            type='RetinaHead'),
        data_preprocessor=dict(
            bgr_to_rgb=True,
            mean=[
                123.675,
                116.28,
                103.53,
            ],
            std=[
                58.395,
                57.12,
                57.375,
            ],
            type='DetDataPreprocessor'),
        neck=dict(
            in_channels=[
                4,
                8,
            ], num_outs=2, out_channels=8, type='FPN'),
        test_cfg=dict(
            max_per_img=8,
            min_bbox_size=0,
            nms=dict(iou_threshold=0.5, type='nms'),
            nms_pre=100,
            score_thr=0.05),
        train_cfg=dict(
            allowed_border=-1,
            assigner=dict(
                ignore_iof_thr=-1,
                min_pos_iou=0,
                neg_iou_thr=0.4,
                pos_iou_thr=0.5,
                type='MaxIoUAssigner'),
            debug=False,
            pos_weight=-1,
            sampler=dict(type='PseudoSampler')),
        type='RetinaNet'),
    teacher=dict(
        backbone=dict(
            base_channels=4,
            depth=18,
            dilations=(
                1,
                1,
            ),
            frozen_stages=-1,
            norm_eval=False,
            num_stages=2,
            out_indices=(
                0,
                1,
            ),
            stem_channels=4,
            strides=(
                1,
                2,
            ),
            type='ResNet'),
        bbox_head=dict(
            anchor_generator=dict(
                octave_base_scale=4,
                ratios=[
                    1.0,
                ],
                scales_per_octave=1,
                strides=[
                    4,
                    8,
                ],
                type='AnchorGenerator'),
            bbox_coder=dict(type='DeltaXYWHBBoxCoder'),
            feat_channels=8,
            in_channels=8,
            loss_bbox=dict(loss_weight=1.0, type='L1Loss'),
            loss_cls=dict(
                alpha=0.25,
                gamma=2.0,
                loss_weight=1.0,
                type='FocalLoss',
                use_sigmoid=True),
            num_classes=2,
            stacked_convs=1,
            type='RetinaHead'),
        checkpoint='teacher.pth',
        data_preprocessor=dict(
            bgr_to_rgb=True,
            mean=[
                123.675,
                116.28,
                103.53,
            ],
            std=[
                58.395,
                57.12,
                57.375,
            ],
            type='DetDataPreprocessor'),
        neck=dict(
            in_channels=[
                4,
                8,
            ], num_outs=2, out_channels=8, type='FPN'),
        test_cfg=dict(
            max_per_img=8,
            min_bbox_size=0,
            nms=dict(iou_threshold=0.5, type='nms'),
            nms_pre=100,
            score_thr=0.05),
        train_cfg=dict(
            allowed_border=-1,
            assigner=dict(
                ignore_iof_thr=-1,
                min_pos_iou=0,
                neg_iou_thr=0.4,
                pos_iou_thr=0.5,
                type='MaxIoUAssigner'),
            debug=False,
            pos_weight=-1,
            sampler=dict(type='PseudoSampler')),
        type='RetinaNet'),
    type='mmdistill_dense.DistillModel')
optim_wrapper = dict(
    clip_grad=dict(max_norm=5),
    optimizer=dict(lr=0.01, momentum=0.9, type='SGD'),
    type='OptimWrapper')
randomness = dict(seed=5)
train_cfg = dict(max_iters=8, type='IterBasedTrainLoop', val_interval=1000)
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
        type='CocoDataset'),
    num_workers=0,
    sampler=dict(shuffle=True, type='InfiniteSampler'))
work_dir = 'work'
