_base_ = '../afdcd/toy_seg.py'
model = dict(distillers=dict(_delete_=True))
