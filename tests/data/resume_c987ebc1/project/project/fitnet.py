"""The student of control.py, taught by the method fitnet."""

_base_ = './control.py'
model = dict(distillers=dict(fitnet=dict(type='FitNet', loss_weight=2.0)))
work_dir = '{{ fileDirname }}/work/{{ fileBasenameNoExtension }}'
