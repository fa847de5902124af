"""PCD's ablation without the spatial adaptor: the teacher's head runs on each pixel as if it were a mean."""

# fits: teacher mocov3-r50 imagenet, variant per-pixel
model = dict(teacher=dict(per_pixel=True))
