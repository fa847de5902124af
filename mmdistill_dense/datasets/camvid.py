"""CamVid (11 classes, void ignored), which mmseg does not have."""

from typing import Any

from mmseg.datasets import BaseSegDataset

from mmdistill_dense.datasets.roots import RootCheck
from mmdistill_dense.registry import DATASETS

CLASSES = (
    'sky', 'building', 'pole', 'road', 'pavement', 'tree', 'sign_symbol', 'fence', 'car', 'pedestrian', 'bicyclist',
)  # fmt: skip


@DATASETS.register_module()
class CamVidDataset(RootCheck, BaseSegDataset):
    """Road scenes filmed from a car, 480 x 360, in the 11-class split 367 / 101 / 233 (train / val / test).

    The label files hold 0 to 10 and 11 for void. ``METAINFO`` names all twelve and the data set uses the first eleven,
    so that mmseg's label map sends void to 255, which every loss and metric ignores.

    Both layouts in circulation fit: ``images/train/X.jpg`` with ``annotations/train/X.png`` (the default suffixes), and
    the SegNet repository's ``train/X.png`` with ``trainannot/X.png``
    (``img_suffix='.png', data_prefix=dict(img_path='train', seg_map_path='trainannot')``).

    Args:
        img_suffix: ending of the image files.
        seg_map_suffix: ending of the label files.
        metainfo: as in mmseg; ``classes`` may pick fewer than the eleven.
        **kwargs: of ``BaseSegDataset``: ``data_root``, ``data_prefix``, ``ann_file`` (names without suffix).

    Source: Brostow, Fauqueur, Cipolla, Pattern Recognition Letters 2009; split of Badrinarayanan et al., PAMI 2017.
    """

    METAINFO = dict(
        classes=(*CLASSES, 'void'),
        palette=[
            [128, 128, 128], [128, 0, 0], [192, 192, 128], [128, 64, 128], [60, 40, 222], [128, 128, 0],
            [192, 128, 128], [64, 64, 128], [64, 0, 128], [64, 64, 0], [0, 128, 192], [0, 0, 0],
        ],
    )  # fmt: skip

    def __init__(
        self,
        img_suffix: str = '.jpg',
        seg_map_suffix: str = '.png',
        metainfo: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        metainfo = {'classes': CLASSES, **(metainfo or {})}
        super().__init__(img_suffix=img_suffix, seg_map_suffix=seg_map_suffix, metainfo=metainfo, **kwargs)
