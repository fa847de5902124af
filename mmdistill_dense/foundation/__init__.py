"""Vision foundation models (DINO, MoCo v3, MAE, DINOv2, DINOv3) as teachers."""

from mmdistill_dense.foundation.foundation_teacher import FoundationTeacher, VisionTransformer

__all__ = ['FoundationTeacher', 'VisionTransformer']
