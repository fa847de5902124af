"""The demonstration's report, on made-up results, and one short run of everything."""

from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from mmdistill_dense.analysis.demo import PICTURES, Result, run_demo, shown_pictures
from mmdistill_dense.analysis.demo_report import draw_picture, make_table


def results(seeds: list[int]) -> list[Result]:
    maps = [np.zeros((96, 128), int)] * PICTURES

    def result(name: str, seed: int, miou: float) -> Result:
        return Result(name, seed, miou, 1000, 61.4, maps, 'x.pth')

    students = [result(name, seed, miou + seed) for seed in seeds for name, miou in (('alone', 40), ('distilled', 45))]
    return [result('teacher', seeds[0], 60.0), *students]


def text(seeds: list[int]) -> str:
    console = Console(width=120)
    with console.capture() as captured:
        console.print(make_table(results(seeds)))
    return captured.get()


def test_table_of_one_seed() -> None:
    table = text([0])
    assert '60.0' in table
    assert '61 s' in table
    assert '+5.0' in table
    assert 'mean' not in table


def test_table_of_several_seeds_shows_every_number() -> None:
    table = text([0, 1, 2])
    for value in ('40.0', '41.0', '42.0', '45.0', '46.0', '47.0', '41.0 ± 1.0', '46.0 ± 1.0', '+5.0, +5.0, +5.0'):
        assert value in table


def test_picture_is_written(tmp_path: Path) -> None:
    draw_picture(results([0]), tmp_path / 'demo.png')
    assert (tmp_path / 'demo.png').stat().st_size > 10_000


def test_pictures_are_those_of_the_test_set() -> None:
    images = shown_pictures()
    assert len(images) == PICTURES
    assert images[0][0].shape == (96, 128, 3)


@pytest.mark.soak
def test_short_demo_runs(tmp_path: Path) -> None:
    found = run_demo([0, 1], tmp_path, Console(quiet=True), short=True)
    assert [(r.name, r.seed) for r in found] == [
        ('teacher', 0), ('alone', 0), ('distilled', 0), ('alone', 1), ('distilled', 1),
    ]  # fmt: skip
    assert found[1].parameters == found[2].parameters < found[0].parameters
    assert all(Path(r.checkpoint).is_file() and len(r.maps) == PICTURES for r in found)
