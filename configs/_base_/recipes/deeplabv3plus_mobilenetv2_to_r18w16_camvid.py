"""DeepLabV3+: MobileNetV2 (2.8 M parameters) teaches a narrow ResNet-18 (0.9 M), CamVid at half resolution."""

# pair: deeplabv3plus_mobilenetv2_to_r18w16_camvid
_base_ = [
    '../datasets/camvid_180x240.py',
    '../schedules/camvid_800.py',
    '../runtime_seg.py',
]
model = dict(
    type='mmdistill_dense.DistillModel',
    student=dict(cfg='mmdistill_dense::_base_/models/deeplabv3plus_r18w16_camvid.py'),
    teacher=dict(
        cfg='mmdistill_dense::teachers/deeplabv3plus_mobilenetv2_camvid.py',
        checkpoint='work_dirs/deeplabv3plus_mobilenetv2_camvid/iter_800.pth',
    ),
)
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
