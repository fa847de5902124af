"""A student in mmengine's Python style: on generated pictures, of two iterations."""

STUDENT = """
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.hooks import CheckpointHook, IterTimerHook, LoggerHook, ParamSchedulerHook
from mmengine.optim import OptimWrapper, PolyLR
from mmengine.runner import IterBasedTrainLoop, TestLoop, ValLoop
from mmseg.datasets import PackSegInputs
from mmseg.evaluation import IoUMetric
from mmseg.models import CrossEntropyLoss, EncoderDecoder, FCNHead, ResNetV1c, SegDataPreProcessor
from torch.optim import SGD

from mmdistill_dense.datasets import LoadShapes, ShapesSegDataset

norm = dict(type='BN')
head = dict(type=FCNHead, in_channels=64, channels=16, num_convs=1, num_classes=7, norm_cfg=norm)
head.update(loss_decode=dict(type=CrossEntropyLoss))
preprocessor = dict(type=SegDataPreProcessor, mean=[127.5] * 3, std=[60.0] * 3, size=(64, 64), seg_pad_val=255)
backbone = dict(type=ResNetV1c, depth=18, base_channels=8, stem_channels=8, norm_cfg=norm)
model = dict(type=EncoderDecoder, data_preprocessor=preprocessor, backbone=backbone, decode_head=head)
model.update(train_cfg=dict(), test_cfg=dict(mode='whole'))
dataset = dict(type=ShapesSegDataset, num_images=4, pipeline=[dict(type=LoadShapes), dict(type=PackSegInputs)])
train_dataloader = dict(batch_size=2, num_workers=0, sampler=dict(type=InfiniteSampler), dataset=dataset)
val_dataloader = dict(batch_size=1, num_workers=0, sampler=dict(type=DefaultSampler, shuffle=False), dataset=dataset)
test_dataloader = val_dataloader
val_evaluator = test_evaluator = dict(type=IoUMetric, iou_metrics=['mIoU'])
optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=SGD, lr=0.01))
param_scheduler = [dict(type=PolyLR, begin=0, end=2, by_epoch=False)]
default_scope = {scope!r}
train_cfg = dict(type=IterBasedTrainLoop, max_iters=2, val_interval=2)
val_cfg, test_cfg = dict(type=ValLoop), dict(type=TestLoop)
default_hooks = dict(checkpoint=dict(type=CheckpointHook, by_epoch=False, interval=1), logger=dict(type=LoggerHook))
default_hooks.update(timer=dict(type=IterTimerHook), param_scheduler=dict(type=ParamSchedulerHook))
randomness = dict(seed=0)
"""
