"""RepPoints: ResNeXt-101 32x4d with deformable convolutions (AP 44.2) teaches ResNet-50 (38.6 alone)."""

# pair: reppoints_x101_to_r50_coco
_base_ = [
    '../datasets/coco_detection.py',
    '../schedules/dense_2x.py',
    '../runtime_det.py',
]
model = dict(
    type='mmdistill_dense.DistillModel',
    student=dict(cfg='mmdet::reppoints/reppoints-moment_r50_fpn-gn_head-gn_2x_coco.py'),
    teacher=dict(cfg='mmdet::reppoints/reppoints-moment_x101-dconv-c3-c5_fpn-gn_head-gn_2x_coco.py', checkpoint='auto'),
)
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
