"""Work of users goes on: a training and a suite that commit 93433c5 began are resumed by the code of today.

The training was saved by a runner after 4 of 8 iterations, and went on to what ``recorded.json`` holds. The suite had
finished. A test here that fails means that users' folders no longer resume: mend the code, not the data.
"""

import copy
import csv
import json
import shutil
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook

from mmdistill_dense.__main__ import main
from mmdistill_dense.registry import HOOKS
from tests import toys

BEFORE = Path(__file__).parent / 'data' / 'resume_93433c5'
TOLERANCE = dict(rel=1e-4, abs=1e-7)  # of another machine


@HOOKS.register_module()
class BeforeTheFirstStep(Hook):
    """Keeps what a checkpoint would hold before the first step of the resumed run, and the state of the run."""

    priority = 'LOWEST'

    def __init__(self):
        self.content, self.run = None, None

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if self.content is None:
            self.run = vars(runner.model.distillation.state).copy()
            checkpoint = dict(
                meta={}, state_dict=runner.model.state_dict(), optimizer=runner.optim_wrapper.state_dict()
            )
            runner.call_hook('before_save_checkpoint', checkpoint=checkpoint)
            self.content = copy.deepcopy(checkpoint)


def flat(value, name=''):
    """All numbers of a nested value by their place, tensors as lists."""
    if isinstance(value, torch.Tensor):
        return {name: value.tolist()}
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else ()
    return {k: v for key, item in items for k, v in flat(item, f'{name}.{key}').items()} or {name: value}


def test_training_takes_all_over_and_goes_on_as_before(tmp_path, monkeypatch):
    shutil.copytree(BEFORE / 'training', tmp_path / 'training')
    monkeypatch.chdir(tmp_path / 'training')
    config = Config.fromfile('config.py')
    config.merge_from_dict(dict(resume=True, load_from='iter_4.pth'))
    config.custom_hooks.append(dict(type='mmdistill_dense.BeforeTheFirstStep'))
    runner = toys.train(None, config)

    saved = torch.load('iter_4.pth', weights_only=False)
    seen = next(hook for hook in runner.hooks if isinstance(hook, BeforeTheFirstStep))
    assert {'distillers', 'balance', 'ema_state_dict'} <= saved.keys()
    for part in ('state_dict', 'ema_state_dict', 'distillers', 'balance', 'optimizer'):
        assert flat(seen.content[part]) == flat(saved[part]), part
    assert seen.content['meta']['distill'] == saved['meta']['distill']
    assert (seen.run['iteration'], seen.run['max_iters'], seen.run['seed']) == (4, 8, 5)

    recorded = json.loads(Path('recorded.json').read_text())
    steps = {}
    for line in next(Path('work').rglob('scalars.json')).read_text().splitlines():
        steps.setdefault(str(json.loads(line)['step']), {}).update(json.loads(line))
    assert steps.keys() == recorded['steps'].keys()
    for step, values in recorded['steps'].items():
        assert {name: steps[step][name] for name in values} == pytest.approx(values, **TOLERANCE), f'step {step}'
    end = torch.load('work/iter_8.pth', weights_only=False)
    parts = ('state_dict', 'ema_state_dict', 'distillers')
    norms = {f'{part}.{name}': value.double().norm().item() for part in parts for name, value in end[part].items()}
    assert norms == pytest.approx(recorded['norms'], **TOLERANCE)


def test_finished_suite_trains_nothing_and_gives_its_table(tmp_path, monkeypatch, capsys):
    shutil.copytree(BEFORE / 'suite', tmp_path / 'suite')
    monkeypatch.chdir(tmp_path / 'suite')
    monkeypatch.setenv('COLUMNS', '200')
    assert main(['suite', 'run', 'before.yaml']) == 0
    assert '9 runs, 0 to do' in capsys.readouterr().out
    assert main(['suite', 'list', 'before.yaml']) == 0
    printed = capsys.readouterr().out
    assert printed.count(' finished ') == 9 and 'CHANGED' not in printed

    assert main(['suite', 'table', 'before.yaml', '--out', 'new']) == 0
    for name in ('scores.csv', 'table.csv'):  # columns of published numbers and of costs have left the table since
        new, before = (list(csv.DictReader(Path(place, name).read_text().splitlines())) for place in ('new', 'out'))
        assert new[0].keys() <= before[0].keys() and {'name', 'config_hash'} & new[0].keys()
        assert new == [{key: row[key] for key in new[0]} for row in before]
    new, before = (Path(place, 'table.md').read_text().splitlines() for place in ('new', 'out'))
    scores = [[line.split('|')[:5] for line in lines if line.startswith('| ')] for lines in (new, before)]
    assert scores[0] == scores[1][: len(scores[0])]  # without costs, and without the values of a search below


def test_suite_notices_another_setting(tmp_path, monkeypatch, capsys):
    shutil.copytree(BEFORE / 'suite', tmp_path / 'suite')
    monkeypatch.chdir(tmp_path / 'suite')
    definition = Path('before.yaml')
    definition.write_text(definition.read_text().replace('loss_weight: 1.5', 'loss_weight: 1.6'))
    assert main(['suite', 'run', 'before.yaml']) == 2
    assert 'half_cwd' in capsys.readouterr().err
