"""Checkpoints that are of another network or class list, where mmengine would load what fits and go on; full disks."""

import os
import re
from contextlib import nullcontext
from multiprocessing import get_context
from pathlib import Path
from threading import Thread
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
from tests.faults.tools import content, full_disk, log_of
from tests.suite import tiny

HEADS = dict(decode_head=dict(num_classes=5), auxiliary_head=dict(num_classes=5))


def pair(distillers: dict | None = None, **student) -> dict:
    return toys.model_config(toys.seg_net('fcn', **student), toys.seg_teacher('fcn'), distillers)


MIMIC = dict(mimic=dict(type='MaskedMimic'))


def file_of(folder: Path, **network) -> str:
    torch.save({'state_dict': toys.build_plain(toys.seg_net('fcn', **network)).state_dict()}, folder / 'other.pth')
    return str(folder / 'other.pth')


def test_a_run_does_not_start_from_another_network(tmp_path: Path) -> None:
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


STATE = Detector().state_dict()
BACKBONE, HEAD = (
    {name: STATE[name] for name in STATE if name.startswith(part)} for part in ('backbone.', 'bbox_head.')
)
SHALLOW = {name: value for name, value in STATE.items() if not name.startswith('backbone.1.')}
ANEW, RESUMED, TESTED = {}, dict(_resume=True), dict(_train_loop=None)


@pytest.mark.parametrize(('run', 'given', 'told'), [
    (ANEW, BACKBONE, None),  # however little of the network that is
    (ANEW, {f'module.{name}': value for name, value in BACKBONE.items()}, None),
    (ANEW, {**BACKBONE, 'bbox_head.weight': torch.zeros(9, 2)}, None),
    (ANEW, {**BACKBONE, 'backbone.1.weight': torch.zeros(3, 2)}, r"^load_from='given\.pth' fits 3 of the 22 .*Detecto"),
    (ANEW, dict(list(BACKBONE.items())[1:]), 'fits 3 of the 22 tensors'),
    (ANEW, HEAD, 'fits 2 of the 22 tensors'),
    # what mmengine would load nothing of, and go on with random weights and a line in the log
    *((run, given, rf"^load_from='given\.pth': no tensor would be loaded into Detector: .*{told}.*backbone\.")
      for run in (ANEW, TESTED)
      for given, told in (
          (dict(model=STATE), 'below `model`, where mmengine does not look'),
          ({f'net.{name}': value for name, value in STATE.items()}, "without the prefix 'net.'"),
          ({f'a{name}b': value for name, value in STATE.items()}, 'none of its names'),
      )),
    (RESUMED, BACKBONE, 'fits 4 of the 22 tensors'),
    *((RESUMED, {name: tensor for name, tensor in STATE.items() if name != lacking},
       rf'^The checkpoint to resume fits 21 of the 22 .*shape: {re.escape(lacking)};') for lacking in STATE),
    (RESUMED, STATE, None),
    (TESTED, BACKBONE, 'fits 4 of the 22 tensors'),
    (TESTED, {**STATE, 'bbox_head.weight': torch.zeros(9, 2)}, r'fits 21 of the 22 .*bbox_head\.weight \(9, 2\)'),
    (TESTED, {name: value for name, value in STATE.items() if 'bbox_head' not in name},
     r"given\.pth' holds nothing of bbox_head \(2 tensors\): random weights"),
    (ANEW, SHALLOW, None),
    (TESTED, SHALLOW, r'lacks 2 of 22 weights: backbone\.1\.weight.* random'),
    # an older file, whose names the layers change, has unknown ones; some weights of heads are for training
    (TESTED, {**SHALLOW, 'backbone.one.weight': torch.zeros(2, 2)}, None),
    (TESTED, {name: value for name, value in STATE.items() if name != 'bbox_head.weight'}, None),
    # mmdet's own new name of a head
    (TESTED, {name.replace('bbox_head', 'rpn_head'): value for name, value in STATE.items()}, None),
])  # fmt: skip
def test_how_much_of_a_file_must_fit(run: dict, given: dict, told: str | None) -> None:
    options = {'_load_from': 'given.pth', '_resume': False, '_train_loop': object.__new__(IterBasedTrainLoop), **run}
    with pytest.raises(ValueError, match=told) if told else nullcontext():
        check_loaded(
            SimpleNamespace(model=Detector(), **options), given if 'model' in given else dict(state_dict=given)
        )


# A disk that is full and folders that cannot be made: what was written before stays whole, and the run goes on from it


FREE = 100_000  # bytes: enough for logs and configs, too few for a checkpoint
KEEP_ONE = dict(default_hooks=dict(checkpoint=dict(max_keep_ckpts=1)), log_level='WARNING')


def test_training_goes_on_from_the_last_checkpoint(tmp_path: Path) -> None:
    """Even where one is to be kept, which mmengine removes before it writes the next."""
    broken, healthy = tmp_path / 'broken', tmp_path / 'healthy'
    toys.train(healthy, pair(MIMIC), iters=4)
    toys.train(broken, pair(MIMIC), iters=2, **KEEP_ONE)
    with full_disk(FREE), pytest.raises(OSError):
        toys.train(broken, pair(MIMIC), iters=4, resume=True, **KEEP_ONE)
    assert (broken / 'iter_4.pth').stat().st_size == FREE
    assert Path((broken / 'last_checkpoint').read_text()).name == 'iter_2.pth'
    assert 'max_keep_ckpts=1 removes the last checkpoint before it writes the next' in log_of(broken)
    with pytest.raises(ValueError, match=r'iter_4\.pth.*no readable checkpoint'):
        read_checkpoint(broken / 'iter_4.pth')
    toys.train(broken, pair(MIMIC), iters=4, resume=True, **KEEP_ONE)
    assert not toys.differing(content(broken / 'iter_4.pth'), content(healthy / 'iter_4.pth'))


def test_a_file_is_the_old_one_or_the_new_one(tmp_path: Path) -> None:
    """Which all files are, but checkpoints: tests/test_structure.py looks for other writers."""
    path = tmp_path / 'page.html'
    write_whole(path, b'old')
    for write in (lambda: write_whole(path, b'x' * 2000), lambda: save_whole(torch.zeros(2000), path)):
        with full_disk(1000), pytest.raises(OSError, match=r'nothing was written: .*page\.html'):
            write()
    assert path.read_bytes() == b'old' and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize('writer', [Thread, get_context('fork').Process])
def test_two_writers_of_one_file_write_it_whole(writer, tmp_path, monkeypatch):
    """The second begins and ends while the first is within its file."""
    path, sync = tmp_path / 'page.html', os.fsync

    def write_between(file):
        monkeypatch.setattr(os, 'fsync', sync)
        second = writer(target=write_whole, args=(path, b'second'))
        second.start()
        second.join()
        assert path.read_bytes() == b'second'

    monkeypatch.setattr(os, 'fsync', write_between)
    write_whole(path, b'first' * 500)
    assert path.read_bytes() == b'first' * 500 and list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_made_is_named_at_the_start(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path('out').write_text('in the way')
    for name in ('out', 'out/below'):
        with pytest.raises(OSError, match=rf'(exists|Not a directory).*{name}'):
            toys.make_runner(name, pair(), iters=1)
    with pytest.raises(OSError, match='out'):
        export_student(toys.run_config(tmp_path, toys.seg_net('fcn', width=16)), toys.teacher_file('fcn'), 'out/a.pth')
    assert main(['suite', 'run', str(tiny.write(tmp_path, iters=4))]) == 2
    assert re.search(r"^ERROR .*'out'", capsys.readouterr().err)
