"""The options that pre-train by other methods than PCD, as they stand, on one mixed view: they learn and resume."""

from pathlib import Path

import pytest
from mmengine.config import Config

from tests import toys
from tests.pretrain import runs
from tests.test_packaging import ROOT

FOLDER = ROOT / 'configs/_base_'
FILES = [
    path
    for path in sorted((FOLDER / 'distillers').glob('*_pretrain*.py'))
    if not path.stem.startswith('pcd') and '_maps' not in path.stem  # those are for foundation models
]


def config(work_dir: Path, **changes) -> Config:
    """All of them at once, with the view and the optimizer of the shipped bases."""
    cfg = runs.config(work_dir)
    options = {path.stem: Config.fromfile(path).distillers for path in FILES}
    cfg.model.distillers = {f'{stem}-{name}': one for stem, each in options.items() for name, one in each.items()}
    cfg.model.student.data_preprocessor.mixup = True
    dataset = Config.fromfile(FOLDER / 'datasets/unlabeled_folder_one_view.py').train_dataloader.dataset
    (view,) = dataset.pipeline[1].views
    views = [[dict(step, size=runs.SIDE) if 'size' in step else step for step in view]]
    cfg.train_dataloader.dataset.pipeline = [
        dataset.pipeline[0],
        dict(dataset.pipeline[1], views=views),
        dataset.pipeline[2],
    ]
    cfg.optim_wrapper = Config.fromfile(FOLDER / 'schedules/foundation_100e.py').optim_wrapper
    cfg.merge_from_dict(changes)
    return cfg


@pytest.fixture(scope='module')
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('whole')
    toys.train(folder, config(folder))
    return folder


def test_they_teach_the_backbone(whole: Path) -> None:
    assert len(FILES) == 6
    first, last = (runs.content(whole / f'epoch_{epoch}.pth') for epoch in (1, 2))
    moved = toys.differing(first, last)
    stem = [name for name in moved if name == 'state_dict.backbone.conv1.weight']
    assert stem and all(value.isfinite().all() for value in last.values() if value.is_floating_point())
    assert {name.split('.')[1] for name in last if name.startswith('distillers.')} == set(
        config(whole).model.distillers
    )


def test_a_resumed_run_is_equal_bit_for_bit(whole: Path, tmp_path: Path) -> None:
    """The order and the share of mixup too, which come from the stream of the iteration."""
    toys.train(tmp_path, config(tmp_path, resume=True, load_from=str(whole / 'epoch_1.pth')))
    assert not toys.differing(runs.content(tmp_path / 'epoch_2.pth'), runs.content(whole / 'epoch_2.pth'))
