"""The student of control.py, taught by the method kd."""

_base_ = './control.py'
model = dict(distillers=dict(kd=dict(type='LogitKD', settings='auto')))
work_dir = '{{ fileDirname }}/work/{{ fileBasenameNoExtension }}'
