"""COCO boxes at 640x640 as mmdet's YOLOX trains: mosaic, affine and mixing, 8 images a GPU on 8."""

_base_ = './coco_detection.py'
zoo = __import__('mmdistill_dense').base('mmdet::yolox/yolox_s_8xb8-300e_coco.py')
zoo = __import__('mmengine').Config.fromfile(zoo)
train_pipeline = zoo.train_pipeline
test_pipeline = zoo.test_pipeline
pictures = dict(_base_.train_dataloader.dataset, pipeline=_base_.train_pipeline[:2])
pictures.update(filter_cfg=zoo.train_dataset.dataset.filter_cfg)
train_dataloader = dict(
    batch_size=8,
    num_workers=4,
    batch_sampler=None,
    dataset=dict(_delete_=True, type='MultiImageMixDataset', dataset=pictures, pipeline=train_pipeline),
)
val_dataloader = dict(batch_size=8, num_workers=4, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
del pictures, zoo
