"""The demonstration's report, on made-up results; `.ci/run` runs it whole."""

import pytest
from rich.console import Console

from tools.demo.pictures import make_table
from tools.demo.training import TASKS, Result


def results(seeds: list[int]) -> list[Result]:
    scores = [(name, seed, score + seed) for seed in seeds for name, score in (('alone', 40.0), ('distilled', 45.0))]
    runs = [('teacher', seeds[0], 60.0), *scores]
    return [Result(*run, 1000, 61.4, [], 'x.pth') for run in runs]


@pytest.mark.parametrize(('seeds', 'shown'), [
    ([0], ('box mAP', '60.0', '61 s', '+5.0')),
    ([0, 1, 2], ('40.0', '41.0', '42.0', '45.0', '46.0', '47.0', '41.0 ± 1.0', '46.0 ± 1.0', '+5.0, +5.0, +5.0')),
])  # fmt: skip
def test_a_table_shows_every_number(seeds: list[int], shown: tuple[str, ...]) -> None:
    console = Console(width=120)
    with console.capture() as captured:
        console.print(make_table(TASKS['det'], results(seeds)))
    table = captured.get()
    assert all(value in table for value in shown), table
    assert ('mean' in table) == (len(seeds) > 1)
