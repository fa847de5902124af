"""The demonstration's report, on made-up results, and one short run of everything."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample
from rich.console import Console

from tools.demo import pictures
from tools.demo.pictures import draw_picture, make_table, shown_pictures
from tools.demo.progress import SILENCE, Lines
from tools.demo.training import PICTURES, TASKS, Result, _is_ready, run_demo

SEG, DET = TASKS['seg'], TASKS['det']


def seg_sample() -> SegDataSample:
    sample = SegDataSample()
    sample.pred_sem_seg = PixelData(data=torch.zeros(1, 96, 128, dtype=torch.long))
    return sample


def det_sample(score: float = 0.9) -> DetDataSample:
    boxes = torch.tensor([[10.0, 20.0, 60.0, 70.0]])
    sample = DetDataSample()
    sample.pred_instances = InstanceData(bboxes=boxes, labels=torch.tensor([2]), scores=torch.tensor([score]))
    return sample


def results(seeds: list[int], sample: object = None) -> list[Result]:
    samples = [sample] * PICTURES

    def result(name: str, seed: int, score: float) -> Result:
        return Result(name, seed, score, 1000, 61.4, samples, 'x.pth')

    students = [
        result(name, seed, score + seed) for seed in seeds for name, score in (('alone', 40), ('distilled', 45))
    ]
    return [result('teacher', seeds[0], 60.0), *students]


def text(seeds: list[int]) -> str:
    console = Console(width=120)
    with console.capture() as captured:
        console.print(make_table(DET, results(seeds)))
    return captured.get()


def test_table_of_one_seed() -> None:
    table = text([0])
    assert 'box mAP' in table
    assert '60.0' in table
    assert '61 s' in table
    assert '+5.0' in table
    assert 'mean' not in table


def test_table_of_several_seeds_shows_every_number() -> None:
    table = text([0, 1, 2])
    for value in ('40.0', '41.0', '42.0', '45.0', '46.0', '47.0', '41.0 ± 1.0', '46.0 ± 1.0', '+5.0, +5.0, +5.0'):
        assert value in table


def one_picture(task: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the first test picture be all of them: a row of panels takes its time."""
    found = shown_pictures(task, 1)
    monkeypatch.setattr(pictures, 'shown_pictures', lambda task: found)


@pytest.mark.parametrize(('task', 'sample'), [(SEG, seg_sample()), (DET, det_sample())], ids=['seg', 'det'])
def test_picture_shows_what_is_predicted(
    task: object, sample: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_picture(task, monkeypatch)
    draw_picture(task, results([0], sample), tmp_path / 'demo.png')
    picture = cv2.imread(str(tmp_path / 'demo.png'))
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 100


def test_boxes_without_confidence_are_not_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one_picture(DET, monkeypatch)

    def drawn(score: float) -> np.ndarray:
        draw_picture(DET, results([0], det_sample(score)), tmp_path / 'demo.png')
        return cv2.imread(str(tmp_path / 'demo.png'))

    low, medium, high = map(drawn, (0.1, 0.2, 0.9))
    assert np.array_equal(low, medium)
    assert not np.array_equal(low, high)


@pytest.mark.parametrize('task', [SEG, DET], ids=['seg', 'det'])
def test_pictures_are_those_of_the_test_set(task: object) -> None:
    shown, palette = shown_pictures(task)
    size = tuple(task.config('alone').test_dataloader.dataset.get('painting', {}).get('size', (96, 128)))
    assert [image.shape for image, _ in shown] == [(*size, 3)] * PICTURES
    assert palette.shape[1] == 3


def test_pairs_look_for_the_teacher_where_the_demo_leaves_it() -> None:
    seg, det = (task.config('teacher') for task in (SEG, DET))
    assert SEG.config('distilled').model.teacher.checkpoint == f'{seg.work_dir}/iter_{seg.train_cfg.max_iters}.pth'
    assert DET.config('distilled').model.teacher.checkpoint == f'{det.work_dir}/epoch_{det.train_cfg.max_epochs}.pth'


def test_students_wait_for_what_they_start_from() -> None:
    """The student alone needs nothing; the distilled one the teacher, and for further seeds MasKD's tokens."""
    teacher, first = {('teacher', 3): None}, {('teacher', 3): None, ('distilled', 3): None}
    assert _is_ready(SEG, ('alone', 3), 3, {})
    assert not _is_ready(SEG, ('distilled', 3), 3, {})
    assert _is_ready(SEG, ('distilled', 4), 3, teacher)
    assert _is_ready(DET, ('distilled', 3), 3, teacher)
    assert not _is_ready(DET, ('distilled', 4), 3, teacher)
    assert _is_ready(DET, ('distilled', 4), 3, first)


def test_without_a_terminal_a_line_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(width=120)
    lines = Lines(console)
    with console.capture() as captured:
        lines.tick()  # too early for a line
        for now, done in ((1, 0), (2, 30), (3, 100)):
            monkeypatch.setattr('time.monotonic', lambda now=now: lines.said + now * (SILENCE + 1))
            lines.update('teacher   seed 0', done, 100, 0.5)
            lines.tick()
        lines.end('teacher   seed 0')
        monkeypatch.setattr('time.monotonic', lambda: lines.said + SILENCE + 1)
        lines.tick()
    assert captured.get().splitlines() == [
        'teacher seed 0: 0/100', 'teacher seed 0: 30/100, loss 0.50', 'teacher seed 0: test', 'getting ready',
    ]  # fmt: skip


@pytest.mark.soak
@pytest.mark.parametrize('task', [SEG, DET], ids=['seg', 'det'])
def test_short_demo_runs(task: object, tmp_path: Path) -> None:
    found = run_demo(task, [0, 1], tmp_path, Console(quiet=True), short=True)
    assert [(r.name, r.seed) for r in found] == [
        ('teacher', 0), ('alone', 0), ('distilled', 0), ('alone', 1), ('distilled', 1),
    ]  # fmt: skip
    assert found[1].parameters == found[2].parameters < found[0].parameters
    assert all(Path(r.checkpoint).is_file() and len(r.predictions) == PICTURES for r in found)
    draw_picture(task, found, tmp_path / 'demo.png')
