"""Monitor of a pre-training run, which every ten epochs classifies CamVid's val pixels by the nearest train pixels."""

_base_ = './pcd.py'
pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(240, 180), keep_ratio=True),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
sets = {
    part: dict(
        type='mmdistill_dense.CamVidDataset',
        data_root='{{$MMDISTILL_DATA:data}}/camvid',
        data_prefix=dict(img_path=f'images/{part}', seg_map_path=f'annotations/{part}'),
        pipeline=pipeline,
    )
    for part in ('train', 'val')
}
custom_hooks = [dict(hook, probe=dict(train=sets['train'], test=sets['val'])) for hook in _base_.custom_hooks]
del pipeline, sets
