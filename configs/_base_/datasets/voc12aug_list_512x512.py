"""VOC 2012 with the augmented labels, as Af-DCD and CIRKD lay them out: one list train_aug.txt of 10582 images."""

_base_ = './_paper.py'
data_root = '{{$MMDISTILL_DATA:data}}/VOCdevkit/VOC2012'
train_dataloader = dict(
    dataset=dict(
        type='mmdistill_dense.PascalVOCDataset',
        data_root=data_root,
        data_prefix=dict(img_path='JPEGImages', seg_map_path='SegmentationClassAug'),
        ann_file='ImageSets/Segmentation/train_aug.txt',
    )
)
val_dataloader = dict(
    dataset=dict(
        type='mmdistill_dense.PascalVOCDataset',
        data_root=data_root,
        data_prefix=dict(img_path='JPEGImages', seg_map_path='SegmentationClass'),
        ann_file='ImageSets/Segmentation/val.txt',
    )
)
test_dataloader = val_dataloader
del data_root  # a key that --cfg-options could change without effect
