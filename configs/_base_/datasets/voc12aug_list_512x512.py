"""VOC 2012 with the augmented labels, as Af-DCD and CIRKD lay them out: one list train_aug.txt of 10582 images."""

_base_ = './voc12_512x512.py'
train_dataloader = dict(
    dataset=dict(data_prefix=dict(seg_map_path='SegmentationClassAug'), ann_file='ImageSets/Segmentation/train_aug.txt')
)
