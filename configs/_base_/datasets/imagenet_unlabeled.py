"""ImageNet-1k's training images without their labels, two views of 224x224: 128 images a GPU on 8.

The views are BYOL's and MoCo v3's. PCD's code takes crops of at least 0.08 of the area,
MoCo v3's teachers were trained with at least 0.2; set it by `scale`.
"""

begin = [
    dict(type='mmdistill_dense.RandomResizedCrop', size=224, scale=(0.08, 1.0)),
    dict(type='RandomFlip', prob=0.5),
    dict(type='mmdistill_dense.ColorJitter', brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, prob=0.8),
    dict(type='mmdistill_dense.RandomGrayscale', prob=0.2),
]
end = [
    [dict(type='mmdistill_dense.GaussianBlur', prob=1.0)],
    [dict(type='mmdistill_dense.GaussianBlur', prob=0.1), dict(type='mmdistill_dense.Solarize', prob=0.2)],
]
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='mmdistill_dense.MultiView', views=[begin + end[0], begin + end[1]]),
    dict(type='mmdistill_dense.PackViews'),
]
train_dataloader = dict(
    batch_size=128,
    num_workers=8,
    persistent_workers=False,  # workers that outlive an epoch cannot be resumed exactly
    drop_last=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='mmdistill_dense.UnlabeledImages',
        data_root='{{$MMDISTILL_DATA:data}}/imagenet',
        data_prefix='train',
        check=False,  # 1.28 million headers are not opened at start; none of its images is tiny
        pipeline=train_pipeline,
    ),
)
del begin, end
