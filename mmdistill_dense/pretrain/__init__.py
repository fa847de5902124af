"""Pre-training of small backbones without labels: self-supervised teachers, the student, and its views."""

from mmdistill_dense.pretrain.backbone_student import BackboneStudent, MultiViewPreprocessor
from mmdistill_dense.pretrain.spatial_adaptor import SpatialAdaptor
from mmdistill_dense.pretrain.ssl_teacher import SSLTeacher
from mmdistill_dense.pretrain.views import (
    ColorJitter,
    GaussianBlur,
    MultiView,
    PackViews,
    RandomGrayscale,
    RandomResizedCrop,
    Solarize,
)

__all__ = [
    'BackboneStudent', 'ColorJitter', 'GaussianBlur', 'MultiView', 'MultiViewPreprocessor', 'PackViews',
    'RandomGrayscale', 'RandomResizedCrop', 'SSLTeacher', 'Solarize', 'SpatialAdaptor',
]  # fmt: skip
