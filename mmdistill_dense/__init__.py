"""Knowledge distillation for dense prediction, as a plugin of MMSegmentation and MMDetection.

The names below are imported when they are first asked for: importing the package loads nothing and changes nothing in
the process.
"""

from typing import TYPE_CHECKING

from mmdistill_dense.utils.lazy import import_lazily
from mmdistill_dense.utils.version import __version__

if TYPE_CHECKING:
    from mmdistill_dense.apps.check.run import check_config
    from mmdistill_dense.apps.export.write_student import export_student
    from mmdistill_dense.config.resolve import base
    from mmdistill_dense.distillers.base import Distiller
    from mmdistill_dense.distillers.feature import FeatureDistiller
    from mmdistill_dense.distillers.ground_truth import boxes_in_pixels, boxes_on_map, semantic_labels
    from mmdistill_dense.engine.distill_hook import DistillHook
    from mmdistill_dense.model.build import DistillModel
    from mmdistill_dense.networks.taps import Tap
    from mmdistill_dense.networks.teacher import FrozenTeacher
    from mmdistill_dense.registry import DISTILLERS

__all__ = [
    'DISTILLERS', 'DistillHook', 'DistillModel', 'Distiller', 'FeatureDistiller', 'FrozenTeacher', 'Tap', '__version__',
    'base', 'boxes_in_pixels', 'boxes_on_map', 'check_config', 'export_student', 'semantic_labels',
]  # fmt: skip
import_lazily(__name__, __file__)
