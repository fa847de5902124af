"""Losses: pure functions of tensors. Nothing here knows a config, a model or a runner."""

from mmdistill_dense.losses.contrast import check_contrast, dense_contrast
from mmdistill_dense.losses.divergence import sigmoid_divergence, softmax_divergence
from mmdistill_dense.losses.grids import centres_inside, to_grid
from mmdistill_dense.losses.infonce import key_ranks, normalize_pixels, pixel_info_nce, pixel_pairs, spatial_gate
from mmdistill_dense.losses.mimic import feature_mimic
from mmdistill_dense.losses.precision import loss_dtype
from mmdistill_dense.losses.projector import centre_keep, masked_align_conv, random_keep

__all__ = [
    'centre_keep',
    'centres_inside',
    'check_contrast',
    'dense_contrast',
    'feature_mimic',
    'key_ranks',
    'loss_dtype',
    'masked_align_conv',
    'normalize_pixels',
    'pixel_info_nce',
    'pixel_pairs',
    'random_keep',
    'sigmoid_divergence',
    'softmax_divergence',
    'spatial_gate',
    'to_grid',
]
