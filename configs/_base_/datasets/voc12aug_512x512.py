"""VOC 2012 with the augmented labels, as mmseg lays them out: train.txt joined with aug.txt, 10582 training images."""

_base_ = './_paper.py'
data_root = '{{$MMDISTILL_DATA:data}}/VOCdevkit/VOC2012'
train = dict(
    type='mmdistill_dense.PascalVOCDataset',
    data_root=data_root,
    data_prefix=dict(img_path='JPEGImages', seg_map_path='SegmentationClass'),
    ann_file='ImageSets/Segmentation/train.txt',
    pipeline=_base_.train_pipeline,
)
aug = dict(
    train,
    data_prefix=dict(img_path='JPEGImages', seg_map_path='SegmentationClassAug'),
    ann_file='ImageSets/Segmentation/aug.txt',
)
train_dataloader = dict(dataset=dict(_delete_=True, type='ConcatDataset', datasets=[train, aug]))
val_dataloader = dict(
    dataset=dict(
        type='mmdistill_dense.PascalVOCDataset',
        data_root=data_root,
        data_prefix=dict(img_path='JPEGImages', seg_map_path='SegmentationClass'),
        ann_file='ImageSets/Segmentation/val.txt',
    )
)
test_dataloader = val_dataloader
del train, aug, data_root  # data_root: a key that --cfg-options could change without effect
