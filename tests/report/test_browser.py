"""Pages in headless Chromium: opened from disk, at the width of a desk and of a phone, light and dark."""

import base64
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from mmdistill_dense.__main__ import main
from tests.project.commands import project
from tests.project.folders_of_data import box_folder
from tests.report.browsers import PATIENCE, browser

pytestmark = pytest.mark.soak
__all__ = ['browser']

SIZES = {'desk': (1280, 'light'), 'night': (1280, 'dark'), 'phone': (390, 'light'), 'phone at night': (390, 'dark')}
# A student and a teacher of masks: base channels of the backbone, channels of neck and heads.
MASKS = """
_base_ = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'
w, c = {}
model = dict(
    backbone=dict(depth=18, base_channels=w, frozen_stages=-1, norm_eval=False, init_cfg=None),
    neck=dict(in_channels=[w, 2 * w, 4 * w, 8 * w], out_channels=c),
    rpn_head=dict(in_channels=c, feat_channels=c),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=c),
        bbox_head=dict(in_channels=c, fc_out_channels=c),
        mask_roi_extractor=dict(out_channels=c),
        mask_head=dict(in_channels=c, conv_out_channels=c, num_convs=1),
    ),
)
optim_wrapper = dict(clip_grad=dict(max_norm=1.0))
del w, c
"""
# Texts of less contrast than WCAG's AA asks for: 4.5, or 3 for large ones.
CONTRAST = """() => {
  const numbers = (colour) => (colour.match(/[0-9.]+/g) || []).map(Number);
  const over = (top, below) => {
    const share = top.length > 3 ? top[3] : 1;
    return [0, 1, 2].map((channel) => share * top[channel] + (1 - share) * below[channel]);
  };
  const ground = (part) => {
    const below = part.parentElement ? ground(part.parentElement) : [255, 255, 255];
    return over(numbers(getComputedStyle(part).backgroundColor), below);
  };
  const light = (colour) => colour
    .map((value) => value / 255)
    .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4))
    .reduce((sum, value, channel) => sum + value * [0.2126, 0.7152, 0.0722][channel], 0);
  const weak = [];
  let measured = 0;
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const [part, said] = [texts.currentNode.parentElement, texts.currentNode.data.trim().slice(0, 40)];
    if (!said || !part.getBoundingClientRect().width || part.closest('.skip, option, script')) continue;
    const style = getComputedStyle(part);
    const [below, size] = [ground(part), parseFloat(style.fontSize)];
    const drawn = numbers(part.closest('svg') ? style.fill : style.color);
    const [a, b] = [light(over(drawn, below)), light(below)];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    measured += 1;
    if (ratio < (large ? 3 : 4.5)) weak.push(`${ratio.toFixed(2)} ${drawn} on ${below.map(Math.round)}: ${said}`);
  }
  return [measured, weak];
}"""


def wait(page: Any, condition: str) -> None:
    """Wait for a condition; playwright's own waiting evaluates text in the page, which its policy forbids."""
    end = time.monotonic() + PATIENCE / 1000
    while not page.evaluate(condition):
        assert time.monotonic() < end, condition
        page.wait_for_timeout(50)


@pytest.fixture(scope='session', params=['methods', 'segmentation', 'instances'])
def file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page about a suite of three methods, or that of a project that `new` and `run` made."""
    if request.param == 'methods':
        return request.getfixturevalue('made')[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp('project'))
        if request.param == 'segmentation':
            project()
        else:
            box_folder(Path('mine'), masks=True)
            for side, widths in (('student', (8, 16)), ('teacher', (16, 32))):
                Path(f'{side}.py').write_text(MASKS.format(widths))
            words = '--data mine --student student.py --teacher teacher.py --out project --iters 4 --batch 2'
            assert main(['new', *words.split()]) == 0
        assert main(['run', 'project']) == 0
        return Path('project/report.html').absolute()


@pytest.fixture(scope='module', params=SIZES)
def opened(request: pytest.FixtureRequest, browser: Any, file: Path) -> Iterator[tuple[Any, list[str], list[str]]]:
    """A page with what it said and asked for."""
    width, scheme = SIZES[request.param]
    context = browser.new_context(viewport=dict(width=width, height=900), color_scheme=scheme, has_touch=width < 500)
    context.set_default_timeout(PATIENCE)
    page, output, asked = context.new_page(), [], []
    page.on('console', lambda message: output.append(f'{message.type}: {message.text}'))
    page.on('pageerror', lambda error: output.append(str(error)))
    page.on('request', lambda request: asked.append(request.url))
    page.goto(file.as_uri())
    page.wait_for_selector('html[data-ready]')
    wait(page, "document.querySelectorAll('.plot:not(.js-plotly-plot)').length === 0")
    yield page, output, asked
    context.close()


def test_the_console_stays_empty(opened, file):
    page, output, asked = opened
    page.evaluate("document.getElementById('theme').click()")
    page.evaluate("document.getElementById('theme').click()")
    assert output == []
    assert {url for url in asked if not url.startswith('data:')} == {file.as_uri()}


def test_every_figure_is_seen(opened):
    page, _, _ = opened
    scores = page.evaluate(
        """[...document.querySelectorAll('figure, .main-svg, .scroll, img')].map((part) => {
          const box = part.getBoundingClientRect();
          const drawn = part.tagName !== 'IMG' || part.naturalWidth > 0;
          return { what: part.tagName + '.' + part.getAttribute('class'), width: box.width, height: box.height, drawn };
        })"""
    )
    unseen = [part for part in scores if part['width'] < 20 or part['height'] < 10 or not part['drawn']]
    assert len(scores) > 20
    assert unseen == []
    traces = page.evaluate(
        """[...document.querySelectorAll('.js-plotly-plot')].map((plot) => {
          return plot.querySelectorAll('.scatterlayer .trace').length;
        })"""
    )
    assert len(traces) > 2
    assert all(traces)


def test_nothing_is_wider_than_the_window(opened):
    page, _, _ = opened
    assert page.evaluate('document.documentElement.scrollWidth <= document.documentElement.clientWidth')
    squeezed = page.evaluate(
        """[...document.querySelectorAll('caption, figcaption, .caption, th, td, li, .reason')].filter((part) => {
          const box = part.getBoundingClientRect();
          return part.textContent.trim().length > 12 && box.width < 60;
        }).map((part) => part.textContent)"""
    )
    assert squeezed == []


def test_the_appearance_follows_the_system(opened):
    page, _, _ = opened
    shade = 'Math.max(...getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g).slice(0, 3))'
    first = "document.querySelector('.scatterlayer .js-line')"
    line = f'getComputedStyle({first}).stroke + getComputedStyle({first}).fill'
    dark = page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    before, drawn = page.evaluate(shade), page.evaluate(line)
    assert (before < 128) == dark
    page.evaluate("document.getElementById('theme').click()")
    wait(page, f"{line} !== '{drawn}'")
    assert (page.evaluate(shade) < 128) != dark
    page.evaluate("document.getElementById('theme').click()")
    wait(page, f"{line} === '{drawn}'")


def test_every_text_can_be_read(opened):
    page, _, _ = opened
    silent = "[...document.querySelectorAll('img')].filter((image) => !image.alt).length"
    assert page.evaluate(silent) == 0
    unnamed = "[...document.querySelectorAll('.plot')].filter((plot) => !plot.getAttribute('aria-label')).length"
    assert page.evaluate(unnamed) == 0
    measured, weak = page.evaluate(CONTRAST)
    assert measured > 100
    assert weak == []


def test_boxes_are_drawn(opened, file):
    """Those of the labels fill a third of a picture, and boxes alone change a tenth of it."""
    pictures = "[...document.querySelectorAll('#predictions .panel img')].map((image) => [image.alt, image.src])"
    actual = {alt: decoded(source) for alt, source in opened[0].evaluate(pictures)}
    truth = {alt: image for alt, image in actual.items() if re.fullmatch(r'truth: \d+ masks, in .*', alt)}
    data = file.with_name('data.py')  # of a project
    assert bool(truth) == (data.is_file() and 'with_mask=True' in data.read_text())
    plain = {alt: actual[f'The picture {alt.partition(", in ")[2]}'] for alt in truth}
    changed = [(np.abs(drawn - plain[alt]) > 30).any(-1).mean() for alt, drawn in truth.items()]
    assert not truth or (np.mean(changed) > 0.25 and min(changed) > 0.1), 'pictures are chosen by errors, not by size'


def decoded(source: str) -> np.ndarray:
    """The pixels of a picture on the page."""
    data = np.frombuffer(base64.b64decode(source.split(',')[1]), np.uint8)
    return cv2.imdecode(data, cv2.IMREAD_COLOR).astype(int)
