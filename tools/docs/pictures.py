"""Write pictures of the pages: python -m tools.docs.pictures PROJECT/labels.png PREDICTIONS PROJECT/report.html."""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

FOLDER = Path('docs/images')
TILE, GAP = 240, 4
PAGE = (960, 1000)  # of the browser's window
BROWSERS = ('chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable')


def row(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures of one size beside each other."""
    made = Image.new('RGB', (len(pictures) * (TILE + GAP) - GAP, TILE), 'white')
    for place, picture in enumerate(pictures):
        made.paste(picture.convert('RGB').resize((TILE, TILE), Image.Resampling.LANCZOS), (place * (TILE + GAP), 0))
    return made


def labels_of(sheet: Image.Image) -> Image.Image:
    """The first four of the 16 pictures with labels that ``new`` drew."""
    side = sheet.width // 4
    return row([sheet.crop((place * side + 2, 2, (place + 1) * side - 2, side - 2)) for place in range(4)])


def page_of(report: Path) -> Image.Image:
    """The top of a report.

    Raises:
        ValueError: If there is no browser.
    """
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise ValueError(f'none of {", ".join(BROWSERS)} is installed')
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder) / 'page.png'
        options = ['--headless', '--no-sandbox', '--hide-scrollbars', '--virtual-time-budget=20000']
        size = f'--window-size={PAGE[0]},{PAGE[1]}'
        subprocess.run([browser, *options, size, f'--screenshot={shot}', report.resolve().as_uri()], check=True)
        return Image.open(shot).convert('P', palette=Image.Palette.ADAPTIVE, colors=64)


def main(labels: Path, predictions: Path, report: Path, out: Path = FOLDER) -> None:
    """Write labels.png, predicted.png and report.png, of a sheet of labels, a folder of ``predict`` and a report."""
    drawn = sorted((predictions / 'drawn').rglob('*.png'))[:4]
    labels_of(Image.open(labels)).quantize(64).save(out / 'labels.png', optimize=True)
    row([Image.open(path) for path in drawn]).quantize(64).save(out / 'predicted.png', optimize=True)
    page_of(report).save(out / 'report.png', optimize=True)


if __name__ == '__main__':
    main(*map(Path, sys.argv[1:]))
