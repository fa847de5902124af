"""ATSS: ResNet-101 (AP 41.5) teaches ResNet-50 (39.4 alone)."""

# pair: atss_r101_to_r50_coco
_base_ = [
    '../datasets/coco_detection.py',
    '../schedules/dense_1x.py',
    '../runtime_det.py',
]
model = dict(
    type='mmdistill_dense.DistillModel',
    student=dict(cfg='mmdet::atss/atss_r50_fpn_1x_coco.py'),
    teacher=dict(cfg='mmdet::atss/atss_r101_fpn_1x_coco.py', checkpoint='auto'),
)
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
