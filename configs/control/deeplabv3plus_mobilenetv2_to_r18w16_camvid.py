_base_ = '../afdcd/deeplabv3plus_mobilenetv2_to_r18w16_camvid.py'
model = dict(distillers=dict(_delete_=True))
