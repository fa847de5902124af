"""Logs of mmengine: restarts, evaluations, tables of classes."""

import json
from pathlib import Path

import pytest

from mmdistill_dense.apps.report.runs import class_tables, read_log

TABLE = """
+-------+-------+-------+
| Class |  IoU  |  Acc  |
+-------+-------+-------+
|  road | {road} | 94.5  |
|  tree |  nan  | 91.5  |
+-------+-------+-------+
2026/01/01 00:00:00 - mmengine - INFO - Iter({split}) [{done}/10]    mIoU: 50.0  time: 0.03
"""
CLASSWISE = """
+----------+-------+----------+------+
| category | AP    | category | AP   |
+----------+-------+----------+------+
| cell     | 0.434 | thing    | 0.2  |
| other    | 0.1   | None     | None |
+----------+-------+----------+------+
2026/01/01 00:00:00 - mmengine - INFO - Epoch(val) [6][87/87]    coco/bbox_mAP: 0.4340
"""


def write(folder: Path, stamp: str, *records: dict, cut: str = '') -> None:
    file = folder / stamp / 'vis_data' / 'scalars.json'
    file.parent.mkdir(parents=True)
    file.write_text('\n'.join(map(json.dumps, records)) + cut, encoding='utf-8')


def begin(folder: Path, stamp: str, resume: bool) -> None:
    """Write the config of a start."""
    file = folder / stamp / 'vis_data' / 'config.py'
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f'model = dict()\nresume = {resume}\n', encoding='utf-8')


def log(folder: Path, text: str) -> dict[str, dict[str, float]]:
    (folder / 'a').mkdir(exist_ok=True)
    (folder / 'a' / 'a.log').write_text(text, encoding='utf-8')
    return class_tables(folder)


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
    assert found.others['monitor/knn.miou'].steps == [0, 2]
    write(tmp_path / 'alone', '1', dict(value=0.5, step=7))
    found = read_log(tmp_path / 'alone')
    assert found.others['value'].steps == [7] and not found.metrics


def test_a_new_training_in_the_folder_replaces_the_old_one(tmp_path):
    for stamp, ends in (('20260101_000000', (1000, 2000)), ('20260102_000000', (500, 1000))):
        scores = [{'mIoU': step / 50, 'time': 1, 'step': step} for step in ends]
        write(tmp_path, stamp, *(dict(loss=1.0, iter=step, step=step) for step in ends), *scores)
        begin(tmp_path, stamp, resume=False)
        text = TABLE.format(road=f'{ends[-1] / 50}', split='val', done=10)
        if ends[0] == 1000:
            text += TABLE.format(road='1.0', split='test', done=10)
        (tmp_path / stamp / 'a.log').write_text(text, encoding='utf-8')
    begin(tmp_path, '20260103_000000', resume=False)  # a test
    assert read_log(tmp_path).metrics['mIoU'].steps == [500, 1000]
    assert read_log(tmp_path).terms['loss'].steps == [500, 1000]
    assert {split: table['road'] for split, table in class_tables(tmp_path).items()} == {'val': 20.0}
    begin(tmp_path, '20260102_000000', resume=True)
    assert read_log(tmp_path).metrics['mIoU'].steps == [500, 1000, 2000]
    assert set(class_tables(tmp_path)) == {'val', 'test'}


def test_evaluations_between_epochs_stand_at_the_epochs_last_iteration(tmp_path):
    train = [dict(loss=1.0, lr=1, epoch=e, iter=50 * e, step=50 * e) for e in (1, 2)]
    write(tmp_path, '1', *train, {'coco/bbox_mAP': 0.3, 'time': 0.1, 'data_time': 0.1, 'step': 2})
    found = read_log(tmp_path)
    assert found.metrics['coco/bbox_mAP'].steps == [100]
    assert 'coco/bbox_mAP' not in found.terms


def test_of_each_split_the_last_table_counts(tmp_path):
    first = TABLE.format(road='10.0', split='val', done=10)
    assert log(tmp_path, TABLE.format(road='10.0', split='val', done=5)) == {}, 'a line of progress ends nothing'
    text = first + TABLE.format(road='20.0', split='val', done=10) + TABLE.format(road='30.0', split='test', done=10)
    found = log(tmp_path, text)
    assert {split: table['road'] for split, table in found.items()} == {'val': 20.0, 'test': 30.0}


def test_several_classes_in_a_row(tmp_path):
    assert log(tmp_path, CLASSWISE)['val'] == pytest.approx(dict(cell=43.4, thing=20.0, other=10.0))
