_base_ = '../maskd/retinanet_mobilenetv2_to_r18w16_nuclei.py'
model = dict(distillers=dict(_delete_=True))
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'  # the maskd leaf of that name has its own
