"""Checkpoints that are of another network or class list, where mmengine would load what fits and go on."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.runner import IterBasedTrainLoop
from torch import nn

from mmdistill_dense.__main__ import main
from mmdistill_dense.apps.export import export_student
from mmdistill_dense.guards.runner import check_loaded
from mmdistill_dense.utils.files import save_whole, write_whole
from mmdistill_dense.weights.strict_load import read_checkpoint
from tests import toys
from tests.distillers.maskd.tokens import seg_model, token_files, tokens_of
from tests.faults.tools import content, full_disk, log_of
from tests.suite import tiny

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


FREE = 100_000  # bytes: enough for logs and configs, too few for a checkpoint
KEEP_ONE = dict(default_hooks=dict(checkpoint=dict(max_keep_ckpts=1)), log_level='WARNING')


def mimicking() -> dict:
    return toys.model_config(toys.seg_net('fcn'), toys.seg_teacher('fcn'), dict(mimic=dict(type='MaskedMimic')))


def test_training_goes_on_from_the_last_checkpoint(tmp_path: Path) -> None:
    """Even where one is to be kept, which mmengine removes before it writes the next."""
    broken, healthy = tmp_path / 'broken', tmp_path / 'healthy'
    toys.train(healthy, mimicking(), iters=4)
    toys.train(broken, mimicking(), iters=2, **KEEP_ONE)
    with full_disk(FREE), pytest.raises(OSError):
        toys.train(broken, mimicking(), iters=4, resume=True, **KEEP_ONE)
    assert (broken / 'iter_4.pth').stat().st_size == FREE
    assert Path((broken / 'last_checkpoint').read_text()).name == 'iter_2.pth'
    assert 'max_keep_ckpts=1 removes the last checkpoint before it writes the next' in log_of(broken)
    with pytest.raises(ValueError, match=r'iter_4\.pth.*no readable checkpoint'):
        read_checkpoint(broken / 'iter_4.pth')
    toys.train(broken, mimicking(), iters=4, resume=True, **KEEP_ONE)
    assert not toys.differing(content(broken / 'iter_4.pth'), content(healthy / 'iter_4.pth'))


@pytest.mark.soak
def test_token_learning_leaves_no_half_file(tmp_path: Path) -> None:
    learn = dict(max_iters=4, save_interval=2, log_interval=4)
    model = seg_model(dict(type='MasKD', student_tap='backbone[3]', num_tokens=40, weight_mask=False, learn=learn))
    with full_disk(20_000), pytest.raises(OSError, match=r'nothing was written: .*maskd_tokens'):
        toys.train(tmp_path / 'broken', model, iters=1)
    assert token_files(tmp_path / 'broken') == []
    tokens = [tokens_of(toys.train(tmp_path / name, model, iters=1)) for name in ('broken', 'healthy')]
    assert not toys.differing(*tokens)


def test_a_suites_folder_that_is_a_file_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tiny.write(tmp_path, iters=4)
    (tmp_path / 'out').write_text('a file')
    assert main(['suite', 'run', str(path)]) == 2
    assert re.search(r"^ERROR .*'out'", capsys.readouterr().err)


def test_a_file_of_a_tool_is_the_old_one_or_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / 'page.html'
    write_whole(path, b'old')
    with full_disk(1000), pytest.raises(OSError, match=r'nothing was written: .*page\.html'):
        write_whole(path, b'x' * 2000)
    with full_disk(1000), pytest.raises(OSError, match=r'nothing was written: .*page\.html'):
        save_whole(torch.zeros(2000), path)
    assert path.read_bytes() == b'old' and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize('name', ['student.pth', 'student.safetensors'])
def test_an_export_is_whole_or_the_old_one(tmp_path: Path, name: str) -> None:
    config = toys.run_config(tmp_path, toys.seg_net('fcn', width=16))
    checkpoint = toys.teacher_file('fcn')
    out, _ = export_student(config, checkpoint, tmp_path / name)
    before = out.read_bytes()
    with full_disk(FREE), pytest.raises(OSError, match=f'nothing was written: .*{name}'):
        export_student(config, checkpoint, out)
    assert out.read_bytes() == before


@pytest.mark.parametrize('place', ['file', 'file/below'])
def test_a_work_folder_that_cannot_be_made_stops_at_the_start(tmp_path: Path, place: str) -> None:
    (tmp_path / 'file').write_text('in the way')
    with pytest.raises(OSError, match=rf'(exists|Not a directory).*{place}'):
        toys.make_runner(tmp_path / place, mimicking(), iters=1)


def test_an_export_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / 'file').write_text('in the way')
    with pytest.raises(OSError, match='file'):
        export_student(
            toys.run_config(tmp_path, toys.seg_net('fcn', width=16)), toys.teacher_file('fcn'), tmp_path / 'file/a.pth'
        )
