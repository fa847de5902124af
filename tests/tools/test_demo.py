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
from tools.demo.training import PICTURES, TASKS, Result, _is_ready, run_demo

SEG, DET = TASKS['seg'], TASKS['det']


def seg_sample() -> SegDataSample:
    labels = torch.zeros(1, 96, 128, dtype=torch.long)
    return SegDataSample(pred_sem_seg=PixelData(data=labels))


def det_sample(score: float = 0.9) -> DetDataSample:
    boxes = torch.tensor([[10.0, 20.0, 60.0, 70.0]])
    found = InstanceData(bboxes=boxes, labels=torch.tensor([2]), scores=torch.tensor([score]))
    return DetDataSample(pred_instances=found)


def results(seeds: list[int], sample: object = None) -> list[Result]:
    scores = [(name, seed, score + seed) for seed in seeds for name, score in (('alone', 40.0), ('distilled', 45.0))]
    runs = [('teacher', seeds[0], 60.0), *scores]
    return [Result(*run, 1000, 61.4, [sample] * PICTURES, 'x.pth') for run in runs]


@pytest.mark.parametrize(('seeds', 'shown'), [
    ([0], ('box mAP', '60.0', '61 s', '+5.0')),
    ([0, 1, 2], ('40.0', '41.0', '42.0', '45.0', '46.0', '47.0', '41.0 ± 1.0', '46.0 ± 1.0', '+5.0, +5.0, +5.0')),
])  # fmt: skip
def test_a_table_shows_every_number(seeds: list[int], shown: tuple[str, ...]) -> None:
    console = Console(width=120)
    with console.capture() as captured:
        console.print(make_table(DET, results(seeds)))
    table = captured.get()
    assert all(value in table for value in shown), table
    assert ('mean' in table) == (len(seeds) > 1)


def test_pictures_are_those_of_the_test_set_and_show_what_is_sure(tmp_path, monkeypatch):
    def drawn(task: object, sample: object) -> np.ndarray:
        draw_picture(task, results([0], sample), tmp_path / 'demo.png')
        return cv2.imread(str(tmp_path / 'demo.png'))

    for task, sample in ((SEG, seg_sample()), (DET, det_sample())):
        shown, palette = shown_pictures(task)
        size = tuple(task.config('alone').test_dataloader.dataset.get('painting', {}).get('size', (96, 128)))
        assert [image.shape for image, _ in shown] == [(*size, 3)] * PICTURES and palette.shape[1] == 3
        one = shown_pictures(task, 1)  # a row of panels takes its time
        monkeypatch.setattr(pictures, 'shown_pictures', lambda task, found=one: found)
        assert len(np.unique(drawn(task, sample).reshape(-1, 3), axis=0)) > 100
        monkeypatch.undo()
    monkeypatch.setattr(pictures, 'shown_pictures', lambda task: one)
    low, medium, high = (drawn(DET, det_sample(score)) for score in (0.1, 0.2, 0.9))
    assert np.array_equal(low, medium) and not np.array_equal(low, high)


def test_students_wait_for_what_they_start_from() -> None:
    """The student alone needs nothing; the distilled one the teacher, and for further seeds MasKD's tokens."""
    teacher = {('teacher', 3): None}
    for task, run, done, ready in (
        (SEG, ('alone', 3), {}, True),
        (SEG, ('distilled', 3), {}, False),
        (SEG, ('distilled', 4), teacher, True),
        (DET, ('distilled', 3), teacher, True),
        (DET, ('distilled', 4), teacher, False),
        (DET, ('distilled', 4), {**teacher, ('distilled', 3): None}, True),
    ):
        assert _is_ready(task, run, 3, done) is ready, (run, done)
    seg, det = (task.config('teacher') for task in (SEG, DET))
    assert SEG.config('distilled').model.teacher.checkpoint == f'{seg.work_dir}/iter_{seg.train_cfg.max_iters}.pth'
    assert DET.config('distilled').model.teacher.checkpoint == f'{det.work_dir}/epoch_{det.train_cfg.max_epochs}.pth'


@pytest.mark.soak
@pytest.mark.parametrize('task', [SEG, DET], ids=['seg', 'det'])
def test_short_demo_runs(task: object, tmp_path: Path) -> None:
    found = run_demo(task, [0, 1], tmp_path, Console(quiet=True), short=True)
    runs = [(name, seed) for seed in (0, 1) for name in ('alone', 'distilled')]
    assert [(r.name, r.seed) for r in found] == [('teacher', 0), *runs]
    assert found[1].parameters == found[2].parameters < found[0].parameters
    assert all(Path(r.checkpoint).is_file() and len(r.predictions) == PICTURES for r in found)
    draw_picture(task, found, tmp_path / 'demo.png')
