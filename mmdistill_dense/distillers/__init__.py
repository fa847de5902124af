"""Distillation methods, one file each, which is imported when the method is first asked for."""

from typing import TYPE_CHECKING

from mmdistill_dense.utils.lazy import import_lazily

if TYPE_CHECKING:
    from mmdistill_dense.distillers.afdcd import AfDCD
    from mmdistill_dense.distillers.at import AT
    from mmdistill_dense.distillers.base import Distiller
    from mmdistill_dense.distillers.cankd import CanKD
    from mmdistill_dense.distillers.cirkd import CIRKD
    from mmdistill_dense.distillers.crosskd import CrossKD
    from mmdistill_dense.distillers.cwd import CWD
    from mmdistill_dense.distillers.defeat import DeFeat
    from mmdistill_dense.distillers.dist import DIST
    from mmdistill_dense.distillers.feature import FeatureDistiller
    from mmdistill_dense.distillers.feature_match import FeatureMatch
    from mmdistill_dense.distillers.fgd import FGD
    from mmdistill_dense.distillers.fitnet import FitNet
    from mmdistill_dense.distillers.freekd import FreeKD
    from mmdistill_dense.distillers.frs import FRS
    from mmdistill_dense.distillers.head_output_kd import HeadOutputKD
    from mmdistill_dense.distillers.ifvd import IFVD
    from mmdistill_dense.distillers.kddetr import KDDETR
    from mmdistill_dense.distillers.ld import LD
    from mmdistill_dense.distillers.logit_kd import LogitKD
    from mmdistill_dense.distillers.maskd.maskd import MasKD
    from mmdistill_dense.distillers.mgd import MGD
    from mmdistill_dense.distillers.pcd.pcd import PCD
    from mmdistill_dense.distillers.pkd import PKD
    from mmdistill_dense.distillers.queue_kl import QueueKL
    from mmdistill_dense.distillers.roi_head_kd import RoIHeadKD
    from mmdistill_dense.distillers.simreg import SimReg
    from mmdistill_dense.distillers.skd import SKD

__all__ = [
    'AT', 'CIRKD', 'CWD', 'DIST', 'FGD', 'FRS', 'IFVD', 'KDDETR', 'LD', 'MGD', 'PCD', 'PKD', 'SKD', 'AfDCD',
    'CanKD', 'CrossKD', 'DeFeat', 'Distiller', 'FeatureDistiller', 'FeatureMatch', 'FitNet', 'FreeKD', 'HeadOutputKD',
    'LogitKD', 'MasKD', 'QueueKL', 'RoIHeadKD', 'SimReg',
]  # fmt: skip
import_lazily(__name__, __file__)
