"""The pictures of the pages: cut from what ``new``, ``predict`` and ``report`` wrote."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests import toys
from tools.docs import first_picture, pictures


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A sheet of 16 pictures, each of another grey, and five predictions."""
    sheet = Image.new('L', (400, 400))
    for number in range(16):
        left, top = number % 4 * 100, number // 4 * 100
        sheet.paste(10 + number * 10, (left, top, left + 100, top + 100))
    sheet.save(tmp_path / 'labels.png')
    (tmp_path / 'report.html').write_text('<h1>answer</h1>')
    (tmp_path / 'found/drawn/val').mkdir(parents=True)
    for number in range(5):
        Image.new('RGB', (50, 30), (0, 40 * number, 0)).save(tmp_path / f'found/drawn/val/{number}.png')
    return tmp_path


def test_four_of_each_stand_beside_each_other(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, pytest.raises(ValueError, match='none of chromium, .* is installed'):
        patch.setenv('PATH', '')
        pictures.page_of(project / 'report.html')
    monkeypatch.setattr(pictures, 'page_of', lambda report: Image.new('P', (3, len(report.read_text()))))
    pictures.main(project / 'labels.png', project / 'found', project / 'report.html', project)
    for name, colours in (
        ('labels', [(10 + 10 * place,) * 3 for place in range(4)]),
        ('predicted', [(0, 40 * place, 0) for place in range(4)]),
    ):
        picture = Image.open(project / f'{name}.png').convert('RGB')
        assert picture.size == (4 * pictures.TILE + 3 * pictures.GAP, pictures.TILE)
        seen = [picture.getpixel((place * (pictures.TILE + pictures.GAP) + 120, 120)) for place in range(4)]
        assert seen == colours, name
    assert Image.open(project / 'report.png').size == (3, 15)


# README's first picture: which networks of a suite's folder are drawn, and under which title


SEED = 5
KEYS = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'instances')
STEPS = dict(type='Resize', scale_factor=1.0), dict(type='PackDetInputs', meta_keys=KEYS)
DATA = dict(type='mmdistill_dense.ShapesDetDataset', num_images=5, painting=dict(size=(64, 64)),
            pipeline=[dict(type='mmdistill_dense.LoadShapesDet'), *STEPS])  # fmt: skip
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
