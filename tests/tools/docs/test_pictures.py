"""The pictures of the pages: cut from what ``new``, ``predict`` and ``report`` wrote."""

from pathlib import Path

import pytest
from PIL import Image

from tools.docs import pictures


def test_four_of_each_stand_beside_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a sheet of 16 pictures, each of another grey, and of five predictions."""
    sheet = Image.new('L', (400, 400))
    for number in range(16):
        left, top = number % 4 * 100, number // 4 * 100
        sheet.paste(10 + number * 10, (left, top, left + 100, top + 100))
    sheet.save(tmp_path / 'labels.png')
    (tmp_path / 'found/drawn/val').mkdir(parents=True)
    for number in range(5):
        Image.new('RGB', (50, 30), (0, 40 * number, 0)).save(tmp_path / f'found/drawn/val/{number}.png')
    monkeypatch.setattr(pictures, 'page_of', lambda report: Image.new('P', (3, 3)))
    pictures.main(tmp_path / 'labels.png', tmp_path / 'found', tmp_path / 'report.html', tmp_path)
    for name, colours in (
        ('labels', [(10 + 10 * number,) * 3 for number in range(4)]),
        ('predicted', [(0, 40 * number, 0) for number in range(4)]),
    ):
        picture = Image.open(tmp_path / f'{name}.png').convert('RGB')
        assert picture.size == (4 * pictures.TILE + 3 * pictures.GAP, pictures.TILE)
        seen = [picture.getpixel((number * (pictures.TILE + pictures.GAP) + 120, 120)) for number in range(4)]
        assert seen == colours, name
