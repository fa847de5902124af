"""Pre-training from end to end on a CPU, by PCD and by the other methods: it learns, resumes and is exported."""

import functools

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from mmengine.runner import load_checkpoint

from mmdistill_dense.apps.export import export_student
from mmdistill_dense.apps.export.write_student import export_backbone
from tests import toys
from tests.every_config import CONFIGS
from tests.faults.tools import content, log_of, resumed_alike
from tests.pretrain import runs

OTHERS = [
    path
    for path in sorted((CONFIGS / '_base_/distillers').glob('*_pretrain*.py'))
    if not path.stem.startswith('pcd') and '_maps' not in path.stem  # those are for foundation models
]


def config_of_others(folder, **changes):
    """The options of all other methods as they stand, with the view and the optimizer of the shipped bases."""
    cfg = runs.config(folder)
    options = {path.stem: Config.fromfile(path).distillers for path in OTHERS}
    cfg.model.distillers = {f'{stem}-{name}': option for stem, each in options.items() for name, option in each.items()}
    cfg.model.student.data_preprocessor.mixup = True
    dataset = Config.fromfile(CONFIGS / '_base_/datasets/unlabeled_folder_one_view.py').train_dataloader.dataset
    load, views, pack = dataset.pipeline
    (view,) = views.views
    views.views = [[dict(step, size=runs.SIDE) if 'size' in step else step for step in view]]
    cfg.train_dataloader.dataset.pipeline = [load, views, pack]
    cfg.optim_wrapper = Config.fromfile(CONFIGS / '_base_/schedules/foundation_100e.py').optim_wrapper
    cfg.merge_from_dict(changes)
    return cfg


@functools.cache
def trained(workers=0):
    """The folder of a run that was not interrupted, and its config."""
    folder = toys.fresh_dir()
    config = runs.config(folder, workers=workers)
    toys.train(None, config)
    return folder, config


@pytest.mark.parametrize('workers', [0, pytest.param(2, marks=pytest.mark.soak)])
def test_killed_run_resumes_to_the_same_bits(tmp_path, workers):
    folder, _ = trained(workers) if workers else trained()  # workers draw other views
    again = functools.partial(runs.config, workers=workers)
    resumed_alike(tmp_path, lambda where, **more: toys.train(None, again(where, **more)), 'epoch_1', 'epoch_2', folder)
    changed = toys.differing(content(folder / 'epoch_1.pth'), content(folder / 'epoch_2.pth'))
    assert {'distillers.pcd.queue.rows', 'distillers.pcd.queue.ptr', 'state_dict.backbone.conv1.weight'} <= {*changed}


def test_the_other_methods_teach_the_backbone(tmp_path):
    """The order and the share of mixup too, which come from the stream of the iteration."""
    assert len(OTHERS) == 4
    resumed_alike(
        tmp_path, lambda where, **more: toys.train(None, config_of_others(where, **more)), 'epoch_1', 'epoch_2'
    )
    first, last = (content(tmp_path / f'a/epoch_{epoch}.pth') for epoch in (1, 2))
    assert 'state_dict.backbone.conv1.weight' in toys.differing(first, last)
    assert all(value.isfinite().all() for value in last.values() if value.is_floating_point())
    distiller_names = {name.split('.')[1] for name in last if name.startswith('distillers.')}
    assert distiller_names == set(config_of_others(tmp_path).model.distillers)


def test_a_schedule_that_ends_before_the_run_is_refused_at_start(tmp_path):
    changes = dict(model=dict(distillers=dict(pcd=dict(schedule=dict(stop_at=0.5)))))
    with pytest.raises(ValueError, match='nothing teaches this student behind iteration 4 of 8'):
        toys.train(None, runs.config(tmp_path, **changes))


def test_parts_of_the_student_that_nothing_trains_are_named(tmp_path):
    assert 'get no gradient' not in log_of(trained()[0])
    config = runs.config(tmp_path, epochs=1, log_level='INFO')
    config.model.student.backbone.frozen_stages = 1
    config.model.distillers.pcd.update(student_tap='backbone[2]', attention=None)
    config.model.distillers.pcd.head = dict(type='linear')
    toys.train(None, config)
    log = log_of(tmp_path)
    assert log.count('WARNING - model.student: 18 parameters get no gradient') == 1
    assert 'backbone.conv1.weight' in log and 'tap backbone[-1] too' in log


@pytest.mark.parametrize('kind', ['mmdet.ResNet', 'mmseg.ResNet'])
def test_bare_backbone_loads_strictly_into_both_packages(tmp_path, kind):
    """A whole student under the names of its checkpoint, for networks that take the backbone by its prefix."""
    toys.build_plain(toys.seg_net('fcn'))  # registers mmseg
    folder, config = trained()
    out = export_backbone(config, folder / 'epoch_2.pth', tmp_path / 'new' / 'b.pth')
    file = torch.load(out, weights_only=True)
    assert set(file) == {'meta', 'state_dict'} and file['meta']['epoch'] == 2
    student = MODELS.build(dict(type='mmdistill_dense.BackboneStudent', backbone=runs.R10))
    load_checkpoint(student, str(folder / 'epoch_2.pth'), strict=True)
    vanilla = MODELS.build(dict(runs.R10, type=kind))
    vanilla.load_state_dict(file['state_dict'], strict=True)
    vanilla.eval()
    images = torch.randn(1, 3, 64, 96)
    for features, expected_features in zip(student.eval().extract_feat(images), vanilla(images), strict=True):
        assert torch.equal(features, expected_features)
    whole, plain = export_student(config, folder / 'epoch_2.pth', tmp_path / 'student.pth')
    assert not toys.differing(torch.load(whole)['state_dict'], student.state_dict())
    assert Config.fromfile(plain).model.type == 'mmdistill_dense.BackboneStudent'
