"""The estimate for GPUs: its formula by hand, what is counted, and that the page says what the kept figures give."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.engine.processes import ROOT
from tools.benchmark import gpus
from tools.benchmark.section import Section

KEPT = ROOT / 'docs' / 'gpus'
PAGE = ROOT / 'docs' / 'distributed.md'
GIVEN = gpus.Assumptions(images=100.0, images_on_eight=790.0, inside=1e9, between=1e8)
ROWS = {'control': gpus.Work(1.0, 1.0, 10**8), 'kd': gpus.Work(1.5, 1.6, 2 * 10**8)}
RECIPE = gpus.Recipe('made_up', 2e12, (512, 1024), (256, 512, 2), 640_000, 16, ROWS, 1e10, 10**8)


@pytest.mark.parametrize(
    ('count', 'step'),
    [  # 1e12 operations a second: 3 s for a picture with kd
        (1, 16 * 3.0),
        (8, 2 * 3.0 + 2 * 7 / 8 * 0.2),
        (16, 1 * 3.0 + 2 * 15 / 16 * 2.0),
        (64, 1 * 3.0 + 2 * 63 / 64 * 2.0),
    ],
)
def test_a_step_computes_and_then_exchanges_gradients(count: int, step: float) -> None:
    assert gpus.seconds(RECIPE, ROWS['kd'], count, GIVEN) == pytest.approx(step)
    pictures = max(16, count)
    assert gpus.hours(RECIPE, ROWS['kd'], count, GIVEN) == pytest.approx(640_000 / pictures * step / 3600)


def test_the_table_shows_them() -> None:
    text = gpus.as_markdown([RECIPE], GIVEN)
    assert f'| kd | 1.50 | 1.60 | 200 | {640_000 / 16 * 48 / 3600:.3g} |' in text
    assert 'that is 1.0 TFLOP/s' in text and '640,000 training pictures of 512 x 1024, 16 in a step' in text


def test_figures_survive_a_file(tmp_path: Path) -> None:
    Section('made_up', 'GPUs', '', asdict(RECIPE), 'here', 'command').save(tmp_path)
    assert gpus.Recipe.read(Section.read(tmp_path / 'made_up.json').figures) == RECIPE


def test_operations_count_a_multiplication_and_its_addition_as_two() -> None:
    layer = nn.Conv2d(3, 5, 3, padding=1, bias=False)
    picture = torch.rand(1, 3, 8, 8)
    forward = 2 * 8 * 8 * 5 * 3 * 9
    assert gpus.operations(lambda: layer(picture)) == forward
    assert gpus.operations(lambda: layer(picture).sum().backward()) == 2 * forward, 'the picture needs no gradient'
    assert gpus.gradients(layer) == 4 * 5 * 3 * 9


def test_resnet50_has_its_published_size() -> None:
    """4.1 G multiply-adds forward, three times that in training, and 23.5 M parameters without the last layer."""
    operations, gradients = gpus.resnet50()
    assert operations == pytest.approx(3 * 2 * 4.1e9, rel=0.02)
    assert gradients == pytest.approx(4 * 23.5e6, rel=0.01)


def test_the_page_says_what_the_kept_figures_give(tmp_path: Path) -> None:
    kept = [gpus.Recipe.read(Section.read(path).figures) for path in sorted(KEPT.glob('*.json'))]
    assert {recipe.name for recipe in kept} == {'deeplabv3_r101_to_r18_cityscapes', 'retinanet_r101_to_r50_coco'}
    copy = tmp_path / 'page.md'
    copy.write_text(PAGE.read_text())
    gpus.write(copy, [replace(kept[0], pictures=1), *kept[1:]])
    assert copy.read_text() != PAGE.read_text()
    gpus.write(copy, kept)
    assert copy.read_text() == PAGE.read_text()
    copy.write_text('nothing')
    with pytest.raises(ValueError, match='has no lines <!-- estimate: begin -->'):
        gpus.write(copy, kept)
