"""A folder of your own images, `unlabeled` below the data folder or any other `data_root`; views as for ImageNet."""

_base_ = './imagenet_unlabeled.py'
train_dataloader = dict(
    drop_last=False,  # a folder may hold fewer pictures than one batch
    dataset=dict(data_root='{{$MMDISTILL_DATA:data}}/unlabeled', data_prefix='', check=True),
)
