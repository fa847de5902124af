"""README's first picture: which networks of a suite's folder are drawn, and under which title."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import toys
from tools.docs import first_picture

SEED = 5
KEYS = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'instances')
PIPELINE = [
    dict(type='mmdistill_dense.LoadShapesDet'),
    dict(type='Resize', scale_factor=1.0),
    dict(type='PackDetInputs', meta_keys=KEYS),
]
DATA = dict(type='mmdistill_dense.ShapesDetDataset', num_images=5, painting=dict(size=(64, 64)), pipeline=PIPELINE)
LOADER = dict(batch_size=1, num_workers=0, dataset=DATA, sampler=dict(type='DefaultSampler', shuffle=False))
VALIDATION = dict(val_dataloader=LOADER, val_cfg=dict(type='ValLoop'), val_evaluator=dict(type='CocoMetric'))


def trained(folder: Path, distillers: dict[str, Any], score: float) -> Path:
    model = toys.model_config(toys.det_net(), toys.det_teacher(), distillers)
    logged = dict(log_level='INFO', randomness=dict(seed=SEED))
    toys.train(folder, toys.det_run_config(folder, model, **logged, **VALIDATION))
    (folder / 'result.json').write_text(json.dumps(dict(score=score)), encoding='utf-8')
    return folder.parent


def test_every_network_has_a_column_and_its_score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(first_picture, 'draw_grid', lambda *given: drawn.extend(given))
    trained(tmp_path / f'runs/control/seed{SEED}', {}, 44.66)
    method = trained(tmp_path / f'runs/mimic/seed{SEED}', dict(mimic=dict(type='FitNet', student_tap='auto')), 50.3)
    first_picture.draw(method, tmp_path / 'cells.jpg')
    rows, titles, out = drawn
    students = ['student alone\nbox AP 44.7', 'student distilled\nbox AP 50.3']
    assert (titles, out) == (['input', 'truth', 'teacher', *students], tmp_path / 'cells.jpg')
    assert [[panel.shape for panel in row] for row in rows] == [[(64, 64, 3)] * 5] * first_picture.PICTURES
    image, truth, *found = rows[0]
    assert not np.array_equal(image, truth)
    assert all(np.array_equal(image, one) for one in found)  # untrained networks are sure of nothing
