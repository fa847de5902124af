"""SimReg in the place of PCD."""

_base_ = '../../configs/pcd/mobilenetv2w05_from_mobilenetv2_small.py'
model = dict(distillers=dict(_delete_=True, simreg=dict(type='SimReg', student_tap='backbone[-1]')))
work_dir = 'work_dirs/pcd/{{ fileBasenameNoExtension }}'
