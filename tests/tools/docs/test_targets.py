"""Published results of a method."""

from pathlib import Path

import pytest

from mmdistill_dense.config.resolve import package_root
from tools.docs.targets import read_targets

CONFIGS = package_root('mmdistill_dense') / 'configs'
ENTRY = '{recipe: pair_a, metric: mIoU, student: 74.21, teacher: 78.07, method: 75.56, source: table, date: "2022-05"}'


def write(configs: Path, text: str, method: str = 'cwd') -> Path:
    path = configs / method / 'published.yml'
    path.parent.mkdir()
    path.write_text(text)
    return path


def test_entries_stand_in_the_order_of_the_file(tmp_path: Path) -> None:
    variant = ENTRY.replace('method: 75.56', 'method: 70, variant: logits')
    found = read_targets(write(tmp_path, f'- {ENTRY}\n- {variant}\n'))
    assert [(one.recipe, one.metric, one.value, one.variant) for one in found] == [
        ('pair_a', 'mIoU', 75.56, None),
        ('pair_a', 'mIoU', 70, 'logits'),
    ]
    assert (found[0].student, found[0].teacher) == (74.21, 78.07)
    assert (found[0].source, found[0].date) == ('table', '2022-05')


@pytest.mark.parametrize('metric', ['box AP', 'bbox_mAP', 'coco/bbox_mAP'])
def test_papers_name_the_metrics_of_coco_otherwise(metric: str, tmp_path: Path) -> None:
    (found,) = read_targets(write(tmp_path, f'- {ENTRY.replace("mIoU", metric)}\n'))
    assert found.metric == 'coco/bbox_mAP'


def test_student_and_teacher_need_not_be_published(tmp_path: Path) -> None:
    (found,) = read_targets(write(tmp_path, '- {recipe: pair_a, metric: mIoU, method: 75.56, source: x, date: 2022}\n'))
    assert found.student is None and found.teacher is None


@pytest.mark.parametrize(('text', 'message'), [
    ('recipe: x', 'must be a list of published results'),
    ('- x', 'entry 1: must be a mapping'),
    ('- {recipe: x, metric: mIoU, method: 7}', 'entry 1: no date, source; known: '),
    (f'- {ENTRY.replace("2022-05", "today")}', 'entry 1, date: must be a year'),
    (f'- {ENTRY[:-1]}, schedule: 1x}}', 'entry 1: unknown schedule'),
    (f'- {ENTRY}\n- {ENTRY.replace("75.56", "seventy")}', 'entry 2, method: must be a score in percent'),
    (f'- {ENTRY.replace("mIoU", "AP")}', 'entry 1, metric: must be one of mIoU, box AP, '),
    (f'- {ENTRY.replace("74.21", "742.1")}', 'entry 1, student: must be a score in percent'),
])  # fmt: skip
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
