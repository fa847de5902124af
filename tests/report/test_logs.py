"""Logs of mmengine: restarts, evaluations, values of hooks."""

import json
from pathlib import Path

from mmdistill_dense.apps.report.runs import read_log


def write(folder: Path, stamp: str, *records: dict, cut: str = '') -> None:
    file = folder / stamp / 'vis_data' / 'scalars.json'
    file.parent.mkdir(parents=True)
    file.write_text('\n'.join(map(json.dumps, records)) + cut, encoding='utf-8')


def begin(folder: Path, stamp: str, resume: bool) -> None:
    """Write the config of a start."""
    file = folder / stamp / 'vis_data' / 'config.py'
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f'model = dict()\nresume = {resume}\n', encoding='utf-8')


def test_a_restart_goes_on_and_replaces_what_it_repeats(tmp_path):
    write(tmp_path, '1', *(dict(loss=9.0, lr=1, iter=i, step=i, time=0.2) for i in (1, 2, 3)), cut='\n{"loss": 1')
    write(tmp_path, '2', *(dict(loss=5.0, lr=1, iter=i, step=i, time=0.4) for i in (3, 4)))
    found = read_log(tmp_path)
    assert found.terms['loss'].steps == [1, 2, 3, 4]
    assert found.terms['loss'].values == [9, 9, 5, 5]
    assert set(found.terms) == {'loss'}
    assert found.seconds == 0.2


def test_values_of_hooks_are_neither_losses_nor_a_training(tmp_path):
    """They hold their iteration, as those of training steps do. A start that was killed after a probe has no losses."""
    probe = {'monitor/knn.miou': 30.0, 'iter': 0, 'step': 0}
    write(tmp_path, '20260101_000000', probe, dict(loss=1.0, iter=2, step=2), {**probe, 'iter': 2, 'step': 2})
    write(tmp_path, '20260102_000000', {**probe, 'monitor/knn.miou': 20.0})
    for stamp in ('20260101_000000', '20260102_000000'):
        begin(tmp_path, stamp, resume=False)
    found = read_log(tmp_path)
    assert set(found.terms) == {'loss'} and not found.metrics
    write(tmp_path / 'alone', '1', dict(value=0.5, step=7))
    found = read_log(tmp_path / 'alone')
    assert not found.terms and not found.metrics


def test_a_new_training_in_the_folder_replaces_the_old_one(tmp_path):
    for stamp, ends in (('20260101_000000', (1000, 2000)), ('20260102_000000', (500, 1000))):
        scores = [{'mIoU': step / 50, 'time': 1, 'step': step} for step in ends]
        write(tmp_path, stamp, *(dict(loss=1.0, iter=step, step=step) for step in ends), *scores)
        begin(tmp_path, stamp, resume=False)
    begin(tmp_path, '20260103_000000', resume=False)  # a test
    assert read_log(tmp_path).metrics['mIoU'].steps == [500, 1000]
    assert read_log(tmp_path).terms['loss'].steps == [500, 1000]
    begin(tmp_path, '20260102_000000', resume=True)
    assert read_log(tmp_path).metrics['mIoU'].steps == [500, 1000, 2000]


def test_evaluations_between_epochs_stand_at_the_epochs_last_iteration(tmp_path):
    train = [dict(loss=1.0, lr=1, epoch=e, iter=50 * e, step=50 * e) for e in (1, 2)]
    write(tmp_path, '1', *train, {'coco/bbox_mAP': 0.3, 'time': 0.1, 'data_time': 0.1, 'step': 2})
    found = read_log(tmp_path)
    assert found.metrics['coco/bbox_mAP'].steps == [100]
    assert 'coco/bbox_mAP' not in found.terms
