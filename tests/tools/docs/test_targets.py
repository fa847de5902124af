"""Published results beside a method."""

from pathlib import Path

import pytest

from mmdistill_dense.config.resolve import package_root
from tools.docs.targets import read_targets, targets_of

CONFIGS = package_root('mmdistill_dense') / 'configs'
ENTRY = '{recipe: pair_a, metric: mIoU, student: 74.21, teacher: 78.07, method: 75.56, source: "Some paper, table 1"}'


def write(configs: Path, text: str, method: str = 'cwd') -> Path:
    path = configs / method / 'published.yml'
    path.parent.mkdir()
    path.write_text(text)
    return path


def test_a_target_is_of_its_method_recipe_metric_and_variant(tmp_path: Path) -> None:
    other = ENTRY.replace('pair_a', 'pair_b')
    variant = ENTRY.replace('method: 75.56', 'method: 70, variant: logits')
    write(tmp_path, f'- {other}\n- {ENTRY}\n- {variant}\n')
    (found,) = targets_of('cwd', 'pair_a', 'mIoU', configs=tmp_path)
    assert (found.value, found.student, found.teacher, found.source) == (75.56, 74.21, 78.07, 'Some paper, table 1')
    assert found.gain == pytest.approx(1.35)
    assert [t.value for t in targets_of('cwd', 'pair_a', 'mIoU', 'logits', configs=tmp_path)] == [70]
    assert targets_of('cwd', 'pair_a', 'coco/bbox_mAP', configs=tmp_path) == []
    assert targets_of('cwd', 'pair_c', 'mIoU', configs=tmp_path) == []
    assert targets_of('mgd', 'pair_a', 'mIoU', configs=tmp_path) == []


def test_two_sources_stand_in_the_order_of_the_file(tmp_path: Path) -> None:
    write(tmp_path, f'- {ENTRY}\n- {ENTRY.replace("75.56", "74.9").replace("Some", "Other")}\n')
    found = targets_of('cwd', 'pair_a', 'mIoU', configs=tmp_path)
    assert [target.value for target in found] == [75.56, 74.9]


@pytest.mark.parametrize('metric', ['box AP', 'bbox_mAP', 'coco/bbox_mAP'])
def test_papers_name_the_metrics_of_coco_otherwise(metric: str, tmp_path: Path) -> None:
    write(tmp_path, f'- {ENTRY.replace("mIoU", metric)}\n')
    assert len(targets_of('cwd', 'pair_a', 'coco/bbox_mAP', configs=tmp_path)) == 1


def test_a_student_that_is_not_published_leaves_no_gain(tmp_path: Path) -> None:
    write(tmp_path, '- {recipe: pair_a, metric: mIoU, method: 75.56, source: x}\n')
    (found,) = targets_of('cwd', 'pair_a', 'mIoU', configs=tmp_path)
    assert found.student is None and found.gain is None


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('recipe: x', 'must be a list of published results'),
        ('- x', 'entry 1: must be a mapping'),
        ('- {recipe: x, metric: mIoU, method: 7}', 'entry 1: no source; known: '),
        (f'- {ENTRY[:-1]}, schedule: 1x}}', 'entry 1: unknown schedule'),
        (f'- {ENTRY}\n- {ENTRY.replace("75.56", "seventy")}', 'entry 2, method: must be a score in percent'),
        (f'- {ENTRY.replace("mIoU", "AP")}', 'entry 1, metric: must be one of mIoU, box AP, '),
        (f'- {ENTRY.replace("74.21", "742.1")}', 'entry 1, student: must be a score in percent'),
    ],
)
def test_a_damaged_file_says_what_is_wrong(text: str, message: str, tmp_path: Path) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ValueError, match=message):
        read_targets(path)


def test_every_shipped_file_is_read_and_names_recipes() -> None:
    shipped = sorted(CONFIGS.glob('*/published.yml'))
    assert shipped
    for path in shipped:
        for target in read_targets(path):
            # a config of the method's own is no row of a suite: PCD's pre-training
            files = [folder / f'{target.recipe}.py' for folder in (CONFIGS / '_base_/recipes', path.parent)]
            assert any(file.is_file() for file in files), f'{path}: no recipe {target.recipe}'
