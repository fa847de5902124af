"""How the C++ files of mmcv are divided into units."""

from pathlib import Path

import pytest

from tools.build_mmcv import APART, AT_THE_END, LONGEST, group, write_units


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Files of different sizes, among them those with rules, in the working directory."""
    monkeypatch.chdir(tmp_path)
    names = [LONGEST, *APART, *AT_THE_END, *(f'op_{index}.cpp' for index in range(40)), 'pytorch/roi_align.cpp']
    paths = [f'./csrc/{"pytorch/" * name.startswith("cpu/")}{name}' for name in names]
    for index, path in enumerate(paths):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text('// ' + 'x' * (37 * index % 101))
    return paths


@pytest.mark.parametrize('count', [1, 4, 7])
def test_every_file_is_in_one_unit_and_the_rules_hold(sources: list[str], count: int) -> None:
    units = group(sources, count)
    assert sorted(path for unit in units for path in unit) == sorted(sources)
    assert units[0] == [f'./csrc/{LONGEST}']
    assert len(units) == 1 + max(count, len(APART))
    for unit in units:
        assert sum(path.endswith(tuple(APART)) for path in unit) <= 1
        assert not any(path.endswith(tuple(AT_THE_END)) for path in unit[:-1])


def test_a_unit_includes_its_files(sources: list[str], tmp_path: Path) -> None:
    units = [Path(path).read_text().splitlines() for path in write_units(sources, 4, tmp_path / 'units')]
    included = [line.removeprefix('#include "').removesuffix('"') for unit in units for line in unit]
    assert sorted(included) == sorted(str(Path(path).resolve()) for path in sources)
