"""The pictures of the pages: cut from what ``new``, ``predict`` and ``report`` wrote."""

from pathlib import Path

import pytest
from PIL import Image

from tools.docs import pictures


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


def greys(file: Path) -> list[tuple[int, int, int]]:
    picture = Image.open(file).convert('RGB')
    assert picture.size == (4 * pictures.TILE + 3 * pictures.GAP, pictures.TILE)
    return [picture.getpixel((place * (pictures.TILE + pictures.GAP) + 120, 120)) for place in range(4)]


def test_four_of_each_stand_beside_each_other(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, 'page_of', lambda report: Image.new('P', (3, len(report.read_text()))))
    pictures.main(project / 'labels.png', project / 'found', project / 'report.html', project)
    assert greys(project / 'labels.png') == [(10 + 10 * place,) * 3 for place in range(4)]
    assert greys(project / 'predicted.png') == [(0, 40 * place, 0) for place in range(4)]
    assert Image.open(project / 'report.png').size == (3, 15)


def test_a_page_needs_a_browser(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('PATH', '')
    with pytest.raises(ValueError, match='none of chromium, .* is installed'):
        pictures.page_of(project / 'report.html')
