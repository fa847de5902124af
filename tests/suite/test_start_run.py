"""A pre-training and the students that start from it, run: stopped, gone on with, tested."""

from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmdistill_dense.apps.suite import job, plan
from mmdistill_dense.apps.suite.definition import Definition, load
from mmdistill_dense.apps.suite.job import ReportHook
from mmdistill_dense.apps.suite.write_table import main as write_table
from mmdistill_dense.weights.locate import sha256
from tests import toys
from tests.suite import tiny

EPOCHS, ITERS = 3, 2
OPTIONS = {
    'train_cfg.max_epochs': EPOCHS,
    'train_dataloader.dataset.num_images': 8,
    'train_dataloader.batch_size': 4,
    'default_hooks.checkpoint.interval': 1,
    'model.teacher.checkpoint': 'teacher.pth',
    'model.distillers.pcd.queue_size': 16,
}


class Stop(Exception):
    """Stands for a kill."""


@pytest.fixture
def definition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Definition:
    """A suite of a control and one student from a pre-training, whose teacher has random weights."""
    monkeypatch.chdir(tmp_path)
    starts = {'pre': {'pretrain': 'pcd/toy_pretrain', 'options': OPTIONS}}
    path = tiny.write(tmp_path, ITERS, starts=starts, methods={'started': {'start': 'pre'}}, teacher=None)
    init_default_scope('mmseg')
    teacher = MODELS.build(load_pretraining().model.teacher.backbone)
    torch.save({'state_dict': {f'backbone.{k}': v for k, v in teacher.state_dict().items()}}, 'teacher.pth')
    return load(path)


def load_pretraining() -> Config:
    return Config.fromfile(Path(__file__).parents[2] / 'configs/pcd/toy_pretrain.py')


def perform(definition: Definition, title: str) -> dict[str, Any]:
    with toys.unformatted():
        return job.perform(definition, next(run for run in plan.runs(definition) if run.title == title))


def weights(folder: str, name: str) -> dict[str, torch.Tensor]:
    return torch.load(Path('out', folder, name), weights_only=False)['state_dict']


@pytest.mark.soak
def test_student_starts_from_what_the_suite_pretrained(
    definition: Definition, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(
        RuntimeError, match='started seed 0 needs results that are not there yet: out/pretrain/pre/seed0'
    ):
        perform(definition, 'started seed 0')
    tell = ReportHook.after_train_iter

    def stop(self: ReportHook, runner: Any, *args: Any, **kwargs: Any) -> None:
        tell(self, runner, *args, **kwargs)
        if runner.iter + 1 == 3:
            raise Stop

    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(ReportHook, 'after_train_iter', stop)
        perform(definition, 'pretrain/pre seed 0')
    first = perform(definition, 'pretrain/pre seed 0')
    assert (first['restarts'], first['score'], first['checkpoint']) == (1, None, f'epoch_{EPOCHS}.pth')
    stopped = weights('pretrain/pre/seed0', first['checkpoint'])
    for file in [*Path('out/pretrain/pre/seed0').glob('*.pth'), *Path('out/pretrain/pre/seed0').glob('*.json')]:
        file.unlink()  # mmengine's visualizer, one for each process, keeps the folder of its logs
    assert perform(definition, 'pretrain/pre seed 0')['restarts'] == 0
    assert not toys.differing(stopped, weights('pretrain/pre/seed0', first['checkpoint'])), 'the same bits'

    result, control = perform(definition, 'started seed 0'), perform(definition, 'control seed 0')
    file = Path('out/pretrain/pre/seed0', first['checkpoint'])
    started = result['start']
    assert (started['name'], started['file'], started['sha256']) == ('pre', file.name, sha256(file))
    assert 0 < started['matched'] == started['total'] and control['start'] is None
    assert result['metrics']['test'] != control['metrics']['test']
    write_table(definition)
    shown = capsys.readouterr().out
    assert 'started = student alone from start pre' in shown and 'one for all seeds, of seed 0' in shown
    assert f'{file.name}, sha256 {started["sha256"][:12]}' in shown

    Path('out/runs/started/seed0/result.json').unlink()
    assert perform(definition, 'started seed 0')['metrics'] == result['metrics'], 'resumed, and only tested'

    file.write_bytes(file.read_bytes()[:100])
    Path('out/runs/started/seed0/result.json').unlink()
    with pytest.raises(ValueError, match='is no readable checkpoint'):
        perform(definition, 'started seed 0')
