"""The fragments of CWD, AT, SKD and IFVD, variants too, as they stand, on tiny networks."""

from pathlib import Path

import pytest
from mmengine.config import Config

from tests import toys
from tests.test_packaging import ROOT

FOLDER = ROOT / 'configs' / '_base_' / 'distillers'
FILES = [path for method in ('cwd', 'at', 'skd', 'ifvd') for path in sorted(FOLDER.glob(f'{method}_*.py'))]
MAPS = '_maps'  # of foundation models, whose pairs have their own steps
DETECTION = [path for path in FILES if path.stem.endswith('_det')]
OF_A_HEAD = ('_gfl', '_segformer_b4_to_b0')  # which comes with the pair; the steps of the zoo take them
SEGMENTATION = [path for path in FILES if not path.stem.endswith(('_det', MAPS, *OF_A_HEAD))]


def _named(paths: list[Path]) -> list:
    """One of each method; the others with make soak."""
    first = {path.stem.split('_')[0]: path for path in reversed(paths)}.values()
    return [pytest.param(path, id=path.stem, marks=[pytest.mark.soak] * (path not in first)) for path in paths]


def _check(model, batch, distillers) -> None:
    losses = toys.losses_of(model, batch)
    toys.total(losses).backward()
    for name in distillers:
        (loss,) = (value for key, value in losses.items() if key.startswith(f'distill.{name}.loss_'))
        assert loss.isfinite() and loss > 0, name
    assert all(p.grad is not None for p in model.distillers.parameters())


@pytest.mark.parametrize('path', _named(SEGMENTATION))
def test_segmentation(path: Path) -> None:
    distillers = Config.fromfile(path).distillers.to_dict()
    model = toys.distilled(student=toys.seg_net('fcn'), teacher=toys.seg_teacher('pspnet'), distillers=distillers)
    _check(model, toys.seg_batch(), distillers)


@pytest.mark.parametrize('path', _named(DETECTION))
@pytest.mark.parametrize('kind', ['retinanet', 'faster_rcnn'])
def test_detection(path: Path, kind: str) -> None:
    distillers = Config.fromfile(path).distillers.to_dict()
    student, teacher = toys.det_net(kind), toys.det_teacher(kind, channels=24)
    model = toys.distilled('mmdet', student=student, teacher=teacher, distillers=distillers)
    _check(model, toys.det_batch(), distillers)
