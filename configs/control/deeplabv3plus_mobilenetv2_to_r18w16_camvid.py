_base_ = '../afdcd/deeplabv3plus_mobilenetv2_to_r18w16_camvid.py'
model = dict(distillers=dict(_delete_=True))
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'  # the afdcd leaf of that name has its own
