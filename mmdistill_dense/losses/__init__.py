"""Losses: pure functions of tensors, independent of configs, models and runners.

Unless a function says otherwise: only the student's tensors get a gradient. A loss is a scalar in float32 (float64 for
float64 tensors), also under autocast, and 0 where there are no pictures or no positions. Unequal shapes raise a
``ValueError``; nothing is broadcast. The distillers check options.
"""

from typing import TYPE_CHECKING

from mmdistill_dense.utils.lazy import import_lazily

if TYPE_CHECKING:
    from mmdistill_dense.losses.contrast import *
    from mmdistill_dense.losses.detection import *
    from mmdistill_dense.losses.divergence import *
    from mmdistill_dense.losses.infonce import *
    from mmdistill_dense.losses.maps import *
    from mmdistill_dense.losses.masked import *
    from mmdistill_dense.losses.relations import *
    from mmdistill_dense.losses.tensors import *
    from mmdistill_dense.losses.wavelet import *

__all__ = [
    'Branch', 'absolute_error', 'aligned_scale', 'attention_distance', 'background_weights', 'box_weights',
    'centre_keep', 'centres_inside', 'channel_attention', 'channel_divergence', 'channel_moments', 'check_contrast',
    'contrast_temperature', 'correlation_distance', 'covered_cells', 'decoupled_squares', 'dense_contrast',
    'feature_match', 'feature_mimic', 'feature_richness', 'focal_entropy', 'focal_error', 'frequency_gate',
    'frequency_masks', 'frequency_terms', 'gate', 'haar', 'instance_distance', 'inverse', 'key_ranks', 'linear_read',
    'loss_dtype', 'mask_dice', 'mask_weights', 'masked_align_conv', 'masked_conv', 'masked_feature_loss',
    'normalize_pixels', 'pairwise_distance', 'pixel_info_nce', 'pixel_pairs', 'pixel_weights', 'prototype_distance',
    'query_terms', 'random_keep', 'rich_entropy', 'rich_squares', 'shifted_error', 'sigmoid_divergence',
    'similarity_divergence', 'smooth_l1', 'softmax_divergence', 'spatial_attention', 'spatial_gate', 'standardised',
    'standardized_mse', 'to_device', 'to_grid', 'token_masks', 'valuable_region',
    'weighted_divergence', 'weighted_mse',
]  # fmt: skip
import_lazily(__name__, __file__)
