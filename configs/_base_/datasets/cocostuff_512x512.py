"""COCO-Stuff 164k, 171 classes: 118287 training and 5000 validation images, labels made by mmseg's converter.

Af-DCD and CIRKD train 182 outputs, one for each number of the raw labels: their scores and weights are not comparable.
"""

_base_ = './_paper.py'
data_root = '{{$MMDISTILL_DATA:data}}/coco_stuff164k'
train_dataloader = dict(
    dataset=dict(
        type='mmdistill_dense.COCOStuffDataset',
        data_root=data_root,
        data_prefix=dict(img_path='images/train2017', seg_map_path='annotations/train2017'),
    )
)
val_dataloader = dict(
    dataset=dict(
        type='mmdistill_dense.COCOStuffDataset',
        data_root=data_root,
        data_prefix=dict(img_path='images/val2017', seg_map_path='annotations/val2017'),
    )
)
test_dataloader = val_dataloader
del data_root  # a key that --cfg-options could change without effect
