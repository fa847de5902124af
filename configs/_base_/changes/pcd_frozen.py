"""The head alone is trained, on the frozen pre-trained backbone: GKD's second stage, for data of another domain."""

# fits: pair deeplabv3, variant frozen
# changes: pcd-init
model = dict(student=dict(backbone=dict(frozen_stages=4)))
