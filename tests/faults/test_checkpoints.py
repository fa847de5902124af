"""Checkpoints that are of another network or class list, where mmengine would load what fits and go on."""

from pathlib import Path

import pytest
import torch

from tests import toys

HEADS = dict(decode_head=dict(num_classes=5), auxiliary_head=dict(num_classes=5))


def pair(**student) -> dict:
    return toys.model_config(toys.seg_net('fcn', **student), toys.seg_teacher('fcn'), dict(kd=dict(type='LogitKD')))


def file_of(folder: Path, **network) -> str:
    """The weights of a student of another kind."""
    path = folder / 'other.pth'
    torch.save({'state_dict': toys.build_plain(toys.seg_net('fcn', **network)).state_dict(), 'meta': {}}, path)
    return str(path)


def test_a_run_does_not_start_from_another_network(tmp_path: Path) -> None:
    words = r"load_from=.*other\.pth' fits 2 of the \d+ tensors .*backbone\.stem\.0\.weight \(8, .*\) \(model \(4, "
    with pytest.raises(ValueError, match=words):
        toys.train(tmp_path, pair(), iters=1, load_from=file_of(tmp_path, width=16))


def test_a_run_may_start_with_a_new_head(tmp_path: Path) -> None:
    runner = toys.train(tmp_path, pair(), iters=1, load_from=file_of(tmp_path, **HEADS))
    assert runner.iter == 1


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
