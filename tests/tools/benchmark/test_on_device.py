"""``tools/benchmark.py methods``: a row of a method on the CPU, and what a section makes of rows."""

import json
from pathlib import Path

from tools.benchmark import on_device
from tools.benchmark.command import composed


def test_a_step_on_the_cpu_equals_itself(monkeypatch) -> None:
    monkeypatch.setattr(on_device, 'SIDE', 64)
    config = composed(on_device.SEG, 'cwd')
    config.merge_from_dict({'model.teacher.checkpoint': 'random.pth'})
    row = on_device.measure(config, 'cpu')
    assert row['difference'] == 0 and {'loss', 'distill.cwd.loss_cwd'} <= row['losses'].keys()
    assert (row['waits_control'], row['waits_distilled']) == (0, 0)  # only a GPU warns


def test_dropout_draws_nothing() -> None:
    options = on_device._without_dropout({'head': [{'dropout_ratio': 0.1}, {'ffn': {'dropout': 0.3}}], 'lr': 0.1})
    assert options == {'head': [{'dropout_ratio': 0.0}, {'ffn': {'dropout': 0.0}}], 'lr': 0.1}


def test_a_section_shows_what_failed_and_what_was_refused(tmp_path: Path) -> None:
    whole = {'difference': 1e-7, 'bf16': None, 'fp16': 0.5, 'waits_control': 3, 'waits_distilled': 5}
    rows = {'cwd:a': {**whole, 'places_distilled': {'head.py:7': 2}}, 'kd:a': {'error': 'RuntimeError: two devices'}}
    section = on_device.section(rows, 'methods', 'cpu', 'a command')
    assert '| cwd:a | 1.0e-07 | refused | 5.0e-01 | 3 | 5 |' in section.markdown
    assert '| kd:a | RuntimeError: two devices |' in section.markdown
    assert json.loads(section.save(tmp_path).read_text())['figures'] == rows


def test_a_loss_that_is_not_finite_is_infinitely_far() -> None:
    assert on_device._difference({'loss': float('nan')}, {'loss': 1.0}) == float('inf')
    assert on_device._difference({'loss': 1.5}, {'loss': 2.0}) == 0.25
