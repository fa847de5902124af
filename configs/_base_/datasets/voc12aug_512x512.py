"""VOC 2012 with the augmented labels, as mmseg lays them out: train.txt joined with aug.txt, 10582 training images."""

_base_ = './voc12_512x512.py'
train = _base_.train_dataloader.dataset
aug = dict(
    train,
    data_prefix=dict(img_path='JPEGImages', seg_map_path='SegmentationClassAug'),
    ann_file='ImageSets/Segmentation/aug.txt',
)
train_dataloader = dict(dataset=dict(_delete_=True, type='ConcatDataset', datasets=[train, aug]))
del train, aug
