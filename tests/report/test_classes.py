"""Scores by class: from the tables that mmseg and mmdet print, in percent."""

import math
from pathlib import Path

import numpy as np
import pytest
from mmengine.logging import MMLogger

from mmdistill_dense.apps.report.runs import class_tables, compare
from mmdistill_dense.apps.report.scores import MOST, class_section
from mmdistill_dense.apps.report.section import Numbers, Section, Table
from tests.report.test_runs import ALONE, DISTILLED, logged, run

START = '20260101_000000'
COCO = """
+----------+-------+--------+
| category | mAP   | mAP_50 |
+----------+-------+--------+
| cell     | {ap:.3f} | 0.700  |
+----------+-------+--------+
2026/01/01 00:00:00 - mmengine - INFO - Epoch(val) [6][87/87]    coco/bbox_mAP: 0.4340
"""


def section_of(*folders: Path) -> Section:
    return class_section(Numbers(compare(folders)))


def figures(section: Section) -> dict[str, dict[str, str]]:
    (table,) = (item for item in section.more if isinstance(item, Table))
    return {row[0]: dict(zip(table.head[1:], row[1:], strict=True)) for row in table.rows}


def ious(folder: Path, **classes: float) -> Path:
    rows = '\n'.join(f'|  {name} | {value} | 94.5 |' for name, value in classes.items())
    text = f'| Class |  IoU  |  Acc  |\n{rows}\nmmengine - INFO - Iter(val) [10/10]    mIoU: 50.0\n'
    (folder / START / 'a.log').write_text(text, encoding='utf-8')
    return logged(folder, 50.0)


def coco(folder: Path, ap: float) -> Path:
    (folder / START / 'a.log').write_text(COCO.format(ap=ap), encoding='utf-8')
    return logged(folder, {'coco/bbox_mAP': ap, 'coco/cell_precision': ap})


def test_the_table_of_voc_gives_the_ap_not_the_number_of_boxes(tmp_path):
    mean_ap = pytest.importorskip('mmdet.evaluation.functional.mean_ap')
    file = tmp_path / 'start' / 'a.log'
    file.parent.mkdir()
    logger = MMLogger('voc', 'voc', log_file=str(file))
    counts = {'cat': (285, 0.7), 'dog': (17, 0.55)}
    results = [dict(recall=np.array([0.9]), ap=ap, num_gts=count, num_dets=500) for count, ap in counts.values()]
    mean_ap.print_map_summary(0.625, results, dataset=tuple(counts), logger=logger)
    logger.info('Epoch(val) [1][10/10]    pascal_voc/mAP: 0.6250  time: 0.1')
    assert class_tables(tmp_path)['val'] == pytest.approx(dict(cat=70.0, dog=55.0))


def test_the_teachers_ap_is_in_percent_as_the_students(tmp_path):
    teacher = coco(run(tmp_path / 'teaching', ALONE), 0.5)
    kd = coco(run(tmp_path / 'kd', DISTILLED, teacher=str(teacher / 'iter_8.pth')), 0.45)
    found = figures(section_of(kd, coco(run(tmp_path / 'alone', ALONE), 0.4)))
    assert found['cell'] == {'alone': '40.0', 'kd': '45.0 (+5.0)', 'teacher': '50.0 (+10.0)'}


def test_absent_classes_are_not_those_that_changed_most(tmp_path):
    alone = {f'c{place}': 50.0 for place in range(3 * MOST)}
    kd = {name: value + 0.1 * place * (-1) ** place for place, (name, value) in enumerate(alone.items())}
    for name in list(alone)[::3]:
        alone[name] = kd[name] = math.nan
    alone['c1'] = math.nan  # only the control has no figure
    section = section_of(ious(run(tmp_path / 'kd'), **kd), ious(run(tmp_path / 'alone', ALONE), **alone))
    both = [name for name in kd if math.isfinite(kd[name]) and math.isfinite(alone[name])]
    (chart,) = section.items
    assert f'({MOST} of {3 * MOST} classes: those that changed most)' in chart.title
    shown = chart.alt.split(' for ')[1].split(';')[0].split(', ')
    assert shown == both[-MOST:]
    assert 'kd has the largest sum' in chart.alt
    found = figures(section)
    assert found['c0'] == {'alone': '–', 'kd': '–'} and found['c1'] == {'alone': '–', 'kd': '49.9'}


def test_a_class_that_one_seed_lacks_has_the_mean_of_the_others(tmp_path):
    for seed, value in enumerate((40.0, math.nan, 50.0)):
        ious(run(tmp_path / 'kd' / f'seed{seed}', seed=seed), road=value)
    assert figures(section_of(tmp_path / 'kd'))['road'] == {'kd': '45.0'}


def test_classes_are_those_of_the_test_split_where_there_is_one(tmp_path):
    log = ious(run(tmp_path / 'kd'), road=40.0) / START / 'a.log'
    log.write_text(log.read_text() + log.read_text().replace('Iter(val)', 'Iter(test)').replace('40.0', '60.0'))
    assert figures(section_of(tmp_path / 'kd'))['road'] == {'kd': '60.0'}
