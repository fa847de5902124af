"""The command line measures what it is told."""

import json
from pathlib import Path

import pytest
from mmengine.config import Config

from tests import toys
from tools.benchmark import command as benchmark


def test_the_command_of_a_section_leaves_out_where_it_is_kept() -> None:
    assert benchmark._again(['losses', '--json', 'a b', '--size', 'small']) == (
        'python tools/benchmark.py losses --size small'
    )


@pytest.mark.soak
def test_step_command_measures_several_methods(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher = toys.seg_teacher()  # beside a config of plain values, as a file cannot hold more
    config = Config({
        'model': toys.model_config(teacher=teacher, distillers={'kd': {'type': 'LogitKD'}}),
        'default_scope': 'mmseg',
        'train_dataloader': {'batch_size': 2},
        'optim_wrapper': {'type': 'OptimWrapper', 'optimizer': {'type': 'SGD', 'lr': 0.01}},
    })  # fmt: skip
    files = [tmp_path / name for name in ('one.py', 'two.py')]
    for file in files:
        config.dump(str(file))
    monkeypatch.setattr(benchmark.torch, 'set_num_threads', lambda threads: None)
    options = ['--name', 'toy', '--repeats', '1', '--device', 'cpu', '--json', str(tmp_path / 'out')]
    benchmark.main(['step', '--config', *map(str, files), *options])
    figures = json.loads((tmp_path / 'out' / 'step_toy.json').read_text())['figures']
    assert list(figures) == ['one', 'two'] and figures['one']['overhead'] > 0
    out = capsys.readouterr().out
    assert 'one: ' in out and '| one |' in out and '| two |' in out
