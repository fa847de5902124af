"""Vision foundation models (DINO, MoCo v3, MAE, DINOv2, DINOv3) as teachers."""
