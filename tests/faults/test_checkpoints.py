"""Checkpoints that are of another network or class list, where mmengine would load what fits and go on."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.runner import IterBasedTrainLoop
from torch import nn

from mmdistill_dense.guards.runner import check_loaded
from tests import toys

HEADS = dict(decode_head=dict(num_classes=5), auxiliary_head=dict(num_classes=5))


def pair(**student) -> dict:
    return toys.model_config(toys.seg_net('fcn', **student), toys.seg_teacher('fcn'), dict(kd=dict(type='LogitKD')))


def file_of(folder: Path, **network) -> str:
    """The weights of a student of another kind."""
    path = folder / 'other.pth'
    torch.save({'state_dict': toys.build_plain(toys.seg_net('fcn', **network)).state_dict(), 'meta': {}}, path)
    return str(path)


def test_a_run_does_not_start_from_another_network_but_may_with_a_new_head(tmp_path: Path) -> None:
    words = r"load_from=.*other\.pth' fits 2 of the \d+ tensors .*backbone\.stem\.0\.weight \(8, .*\) \(model \(4, "
    with pytest.raises(ValueError, match=words):
        toys.train(tmp_path, pair(), iters=1, load_from=file_of(tmp_path, width=16))
    assert toys.train(tmp_path, pair(), iters=1, load_from=file_of(tmp_path, **HEADS)).iter == 1


class Detector(nn.Module):
    """Its backbone is a small part of it, as in DINO or RTMDet."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        self.decoder = nn.Sequential(*(nn.Linear(2, 2) for _ in range(8)))
        self.bbox_head = nn.Linear(2, 2)


def beginning(**state: bool) -> SimpleNamespace:
    """A runner that is about to load a file."""
    loop = object.__new__(IterBasedTrainLoop)
    return SimpleNamespace(model=Detector(), _load_from='given.pth', **{'_resume': False, '_train_loop': loop, **state})


def test_a_run_may_start_from_a_whole_backbone() -> None:
    """However little of the network that is; a part of it is refused, as is everything else without it."""
    runner = beginning()
    state = runner.model.state_dict()
    backbone = {name: value for name, value in state.items() if name.startswith('backbone.')}
    check_loaded(runner, dict(state_dict=backbone))
    check_loaded(runner, dict(state_dict={f'module.{name}': value for name, value in backbone.items()}))
    check_loaded(runner, dict(state_dict={**backbone, 'bbox_head.weight': torch.zeros(9, 2)}))
    partly = dict(backbone, **{'backbone.1.weight': torch.zeros(3, 2)})
    head = {name: value for name, value in state.items() if name.startswith('bbox_head.')}
    for other in (partly, dict(list(backbone.items())[1:]), head):
        with pytest.raises(ValueError, match=r"load_from='given\.pth' fits \d of the 22 tensors of Detector"):
            check_loaded(runner, dict(state_dict=other))


@pytest.mark.parametrize('state', [dict(_resume=True), dict(_train_loop=None)], ids=['resumed', 'tested'])
def test_a_backbone_is_enough_for_a_start_alone(state: dict) -> None:
    runner = beginning(**state)
    backbone = {name: value for name, value in runner.model.state_dict().items() if name.startswith('backbone.')}
    with pytest.raises(ValueError, match='fits 4 of the 22 tensors'):
        check_loaded(runner, dict(state_dict=backbone))


def test_a_file_of_a_shallower_network_is_not_tested() -> None:
    """An older file, whose names the layers change, has unknown ones; some weights of heads are for training."""
    state = beginning().model.state_dict()
    fewer, headless = (
        {name: value for name, value in state.items() if not name.startswith(part)}
        for part in ('backbone.1.', 'bbox_head.weight')
    )
    with pytest.raises(ValueError, match=r'lacks 2 of 22 weights: backbone\.1\.weight.* random'):
        check_loaded(beginning(_train_loop=None), dict(state_dict=fewer))
    check_loaded(beginning(_train_loop=None), dict(state_dict={**fewer, 'backbone.one.weight': torch.zeros(2, 2)}))
    for state, runner in ((fewer, beginning()), (headless, beginning(_train_loop=None))):
        check_loaded(runner, dict(state_dict=state))


def test_a_part_that_predicts_is_not_tested_with_random_weights(tmp_path: Path) -> None:
    """Although the backbone is most of the network. What only training needs may be missing, as in an export."""
    state = toys.build_plain(toys.seg_net('fcn')).state_dict()
    for name, kept in {'backbone': ('backbone.',), 'network': ('backbone.', 'decode_head.')}.items():
        part = {key: value for key, value in state.items() if key.startswith(kept)}
        torch.save({'state_dict': part}, tmp_path / f'{name}.pth')
    runner = toys.make_runner(tmp_path / 'a', pair(), load_from=str(tmp_path / 'backbone.pth'))
    with pytest.raises(ValueError, match=r"backbone\.pth' holds nothing of decode_head \(17 tensors\): random weights"):
        runner.val()
    assert 'mIoU' in toys.make_runner(tmp_path / 'b', pair(), load_from=str(tmp_path / 'network.pth')).val()


def test_mmdet_s_own_new_name_of_a_head_is_known() -> None:
    runner = beginning(_train_loop=None)
    renamed = {name.replace('bbox_head', 'rpn_head'): value for name, value in runner.model.state_dict().items()}
    check_loaded(runner, dict(state_dict=renamed))


@pytest.fixture(scope='module')
def finished(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A checkpoint to resume from."""
    folder = tmp_path_factory.mktemp('finished')
    toys.train(folder, pair(), iters=2)
    return str(folder / 'iter_2.pth')


def test_a_run_of_another_student_does_not_resume(tmp_path: Path, finished: str) -> None:
    other = pair(decode_head=dict(channels=24))
    with pytest.raises(ValueError, match=r'The checkpoint to resume fits .* decode_head\.convs\.0\.conv\.weight \(16,'):
        toys.train(tmp_path, other, iters=4, resume=True, load_from=finished)


def test_weights_of_other_classes_are_not_tested(tmp_path: Path, finished: str) -> None:
    """mmengine would test with a head of random weights."""
    runner = toys.make_runner(tmp_path, pair(), load_from=file_of(tmp_path, **HEADS))
    with pytest.raises(ValueError, match=r'decode_head\.conv_seg\.weight \(5, .*\(model \(7, '):
        runner.val()
    assert 'mIoU' in toys.make_runner(tmp_path / 'b', pair(), load_from=finished).val()
