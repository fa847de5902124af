"""The page of real runs: every part is there, nothing is fetched, what is missing is said."""

import base64
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from markupsafe import escape
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks, PolygonMasks
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample
from plotly.graph_objects import Figure

from mmdistill_dense.__main__ import main
from mmdistill_dense.apps.inspect.drawing import draw
from mmdistill_dense.apps.report import make_report, predictions
from mmdistill_dense.apps.report.page import render
from mmdistill_dense.apps.report.predictions import (
    Predictions,
    Scene,
    choose_pictures,
    class_sheet,
    labelled_panel,
    pixel_accuracy,
)
from mmdistill_dense.apps.report.runs import Comparison, TrainedRun, compare
from mmdistill_dense.apps.report.section import Panel, Section, Sheet, Strip
from tests import toys
from tests.report.conftest import SEED

ADDRESS = re.compile(r'(?:src|href)\s*=\s*["\'](?!#|data:)|url\(|@import|<iframe|<object', re.IGNORECASE)


def only(section, kind):
    return [item for item in section.items if isinstance(item, kind)]


def test_all_parts_of_a_whole_suite_are_there_the_answer_first(made):
    _, sections = made
    reasons = {name: section.reasons for name, section in sections.items() if section.reasons}
    assert list(reasons) == ['scores']  # the teacher's folder holds no log
    assert len(only(sections['predictions'], Strip)) == 2
    assert list(sections) == ['scores', 'predictions', 'tokens', 'curves', 'settings']
    assert all(section.items for section in sections.values())
    strip = only(made[1]['predictions'], Strip)[0]
    assert titles(strip) == ['input', 'control', 'all', 'kd', 'teacher', 'truth']
    assert all(panel.alt and panel.source.startswith('data:image/webp;base64,') for panel in strip.panels)
    assert next(iter(made[1])) == 'scores'
    text = ' '.join(made[1]['scores'].lead)
    assert 'flatters it: all scores 44.00, the student alone 40.00: +4.00. One seed' in text
    assert escape(text) in made[0].read_text(encoding='utf-8')


def copied(suite: Path, root: Path) -> None:
    """The runs of the control and of one method, to change them."""
    for name in ('control', 'kd'):
        shutil.copytree(suite / 'runs' / name, root / 'runs' / name)


def make_named(root: Path) -> Section:
    """The pictures of a page about them."""
    _, sections = make_report([root], root / 'page.html', pictures=1)
    return next(section for section in sections if section.name == 'predictions')


def titles(strip: Strip) -> list[str]:
    return [panel.caption.split(':')[0] for panel in strip.panels]


def test_scores_are_those_of_the_results(made):
    (table,) = only(made[1]['scores'], Sheet)
    rows = {row[0]: row[1:] for row in table.rows}
    control, kd, both = ([str(SEED), *cells] for cells in (['40.00', ''], ['42.00', '+2.00'], ['44.00', '+4.00']))
    assert {name: row[:3] for name, row in rows.items()} == {'control': control, 'kd': kd, 'all': both}
    assert re.fullmatch(r'\d+\.\d\d x', rows['kd'][3]) and rows['control'][3] == ''
    rows = {row[0]: dict(zip(table.head, row, strict=True)) for row in table.rows}
    network = toys.build_plain(toys.seg_net('fcn'))
    parameters = sum(value.numel() for name, value in network.named_parameters() if 'auxiliary' not in name)
    for row in rows.values():
        assert row['parameters'] == f'{parameters / 1e6:.2f} M' and re.fullmatch(r'\d+ ms', row['a picture'])
    assert len({row['a picture'] for row in rows.values()}) == 1, 'one network with other weights takes one time'


def test_a_run_with_tokens_shows_their_masks(made):
    (strip,) = only(made[1]['tokens'], Strip)
    assert strip.title.startswith('all, maskd: ') and not made[1]['tokens'].reasons
    assert titles(strip) == ['input', 'token 0', 'token 1', 'token 2']
    assert len({panel.source for panel in strip.panels}) == 4, 'each is another picture'


def test_terms_are_those_of_the_runs(made):
    charts = {chart.layout.meta['title']: chart.layout.meta['alt'] for chart in only(made[1]['curves'], Figure)}
    assert 'control, seed 5 ends at' in charts['decode.loss_ce']
    assert 'kd, seed 5 ends at' in charts['distill.kd.loss_kd']
    assert 'all' not in charts['distill.kd.loss_kd']
    assert {'distill.kd.share', 'distill.pcd.share', 'distill.maskd.share'} <= set(charts)
    table = next(sheet for sheet in only(made[1]['settings'], Sheet) if sheet.caption.startswith('What kd compared'))
    assert [row[:4] for row in table.rows] == [['kd', 'LogitKD', 'decode_head.conv_seg', 'decode_head.conv_seg']]
    tables = {table.caption.split(',')[0]: table.rows for table in only(made[1]['settings'], Sheet)}
    assert ['model.distillers.kd.type', '–', "'LogitKD'"] in tables['kd']
    assert all(row[0].startswith('model.distillers.') for row in [*tables['kd'], *tables['all']])
    text = made[0].read_text(encoding='utf-8')
    assert not ADDRESS.search(text)
    assert "default-src 'none'" in text
    assert made[0].stat().st_size < 6 * 2**20


def test_missing_pieces_are_left_out_with_a_reason(suite, tmp_path):
    moved = tmp_path / 'alone'
    shutil.copytree(suite / 'runs' / 'kd' / f'seed{SEED}', moved)
    for checkpoint in moved.glob('*.pth'):
        checkpoint.unlink()
    for log in moved.glob('*/*.log'):
        log.unlink()
    path, sections = make_report([moved], tmp_path / 'page.html')
    reasons = {section.name: ' '.join(section.reasons) for section in sections}
    assert 'no run holds a checkpoint' in reasons['predictions']
    assert 'give one with --control' in reasons['settings']
    text = path.read_text(encoding='utf-8')
    assert all(str(escape(reason)) in text for section in sections for reason in section.reasons)


@pytest.mark.soak
def test_runs_from_before_a_move_cost_no_pictures(suite: Path, tmp_path: Path) -> None:
    """They name the old folders of the data and of the teacher, the newest run the new ones."""
    copied(suite, tmp_path)
    gone = "test_dataloader = dict(dataset=dict(type='mmdistill_dense.SegFolderDataset', data_root='/gone'))"
    for config in tmp_path.glob('runs/*/*/*/vis_data/config.py'):
        config.write_text(f"{config.read_text()}\n{gone}\nmodel['teacher']['checkpoint'] = '/gone/teacher.pth'\n")
    assert 'does not exist' in make_named(tmp_path).reasons[0]
    data = TrainedRun(suite / f'runs/kd/seed{SEED}', 'kd').config
    section = Predictions(compare([tmp_path]), 1, data=data).section
    assert titles(section.items[0]) == ['input', 'control', 'kd', 'truth'], 'a project knows where its data are'
    shutil.copytree(suite / 'runs/all', tmp_path / 'runs/late')
    start = max(tmp_path.glob(f'runs/late/seed{SEED}/2*/vis_data')).parent  # a second folder may be empty
    start.rename(start.with_name('30000101_000000'))
    assert titles(make_named(tmp_path).items[0]) == ['input', 'control', 'kd', 'late', 'teacher', 'truth']
    for config in tmp_path.glob('runs/kd/*/*/vis_data/config.py'):
        config.write_text(f"{config.read_text()}\nmodel['teacher'] = dict(cfg='other.py')\n")
    assert any('teacher: the runs have several.' in reason for reason in make_named(tmp_path).reasons)


@pytest.mark.soak
def test_a_damaged_checkpoint_costs_its_own_pictures(suite, tmp_path):
    copied(suite, tmp_path)
    (file,) = (tmp_path / f'runs/kd/seed{SEED}').glob('*.pth')
    torch.save(dict(state_dict={'backbone.conv1.weight': torch.zeros(1)}), file)
    predictions = make_named(tmp_path)
    assert any('does not fit' in reason for reason in predictions.reasons)
    assert titles(predictions.items[0]) == ['input', 'control', 'teacher', 'truth']


def test_names_are_escaped():
    evil = '</script><script>alert(1)</script>'
    comparison = Comparison((TrainedRun(Path('/nowhere'), evil),), ())
    items = [Sheet(evil, [evil], [[evil]]), Figure(layout=dict(meta=dict(title=evil, alt=evil)))]
    comparison.runs[0].__dict__['config'] = {}
    text = render(comparison, [Section('scores', 'Scores', items=items)])
    assert evil not in text
    assert text.count('alert(1)') > 5


@pytest.mark.parametrize(('arguments', 'output'), [
    (['nowhere'], "'nowhere': no such work dir"),
    (['.'], "'.' is no work dir"),
    (['{kd}', '--pictures', '-1'], 'pictures must be 0 or more, got -1'),
    (['{kd}', '--metric', 'mIuO'], "metric='mIuO' was not logged by any run"),
    (['{kd}', '--out', '.'], 'is a folder'),
    (['{kd}', '--out', 'my_suite.yaml'], "out='my_suite.yaml' must end in .html"),
    (['{kd}', '--out', '{log}/page.html'], "log.txt/page.html' cannot be written: Not a directory"),
    (['{kd}', '--out', '/proc/nowhere/page.html'], "out='/proc/nowhere/page.html' cannot be written"),
])  # fmt: skip
def test_a_mistake_writes_no_page(suite, tmp_path, monkeypatch, capsys, arguments, output):
    monkeypatch.chdir(tmp_path)
    kd = suite / 'runs' / 'kd'
    log = tmp_path.with_name('log.txt')
    log.touch()
    assert main(['report', *[argument.format(kd=kd, log=log) for argument in arguments]]) == 2
    assert output in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


# What is drawn: labels and objects in the picture's place, and what a caption says of them

META = {'classes': ('cat', 'dog'), 'palette': [(250, 0, 0), (0, 250, 0)]}
BOX = torch.tensor([[200.0, 200.0, 600.0, 400.0]])


def pixels(source: str) -> np.ndarray:
    data = np.frombuffer(base64.b64decode(source.split(',')[1]), np.uint8)
    return cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1].astype(int)


def segmented(predicted: list[int], truth: list[int] | None) -> SegDataSample:
    """Rows of 32 pixels of one class each."""
    rows = (torch.tensor(numbers)[None, :, None] for numbers in (predicted, truth or []))
    maps = [row.expand(-1, -1, 96).repeat_interleave(32, 1) for row in rows]
    sample = SegDataSample(pred_sem_seg=PixelData(data=maps[0]))
    if truth is not None:
        sample.gt_sem_seg = PixelData(data=maps[1])
    return sample


def test_pixels_without_a_label_do_not_count() -> None:
    sample = segmented([0, 1, 1], [0, 0, 255])
    actual = labelled_panel(Scene('x', np.full((96, 96, 3), 100, np.uint8), {}), sample, 'kd', META)
    assert actual.caption == 'kd: 50.0% of the labelled pixels right'
    shown_pixels = pixels(actual.source)
    for rows, colour in ((slice(8, 24), (175, 50, 50)), (slice(40, 88), (50, 175, 50))):
        assert np.abs(shown_pixels[rows, 8:88].reshape(-1, 3).mean(0) - colour).max() < 12
    assert pixel_accuracy(unlabelled := segmented([0, 1], [255, 255])) is None
    assert (draw(np.full((64, 96, 3), 100, np.uint8), unlabelled, META, 'gt') == 50).all(), 'half black'
    assert pixel_accuracy(segmented([0, 1], None)) is None


def test_a_padded_picture_is_shown_without_its_border(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = torch.zeros(3, 640, 640, dtype=torch.uint8)
    inputs[:, :480] = 200
    about = {'ori_shape': (240, 320), 'img_shape': (640, 640), 'scale_factor': (2.0, 2.0)}
    item = {'inputs': inputs, 'data_samples': DetDataSample(metainfo=about)}

    class Data(list):
        metainfo: dict[str, Any] = {}

    monkeypatch.setattr(predictions.DATASETS, 'build', lambda option: Data([item]))
    loader = {'dataset': {'pipeline': [{'type': 'Pad'}]}}
    (scene,), _ = predictions.scenes_of({'val_dataloader': loader}, 1)
    assert scene.image.shape == (240, 320, 3) and (scene.image == 200).all()


def shown(truth: InstanceData, meta: dict[str, Any] = META) -> Panel:
    """A black picture of 1280 x 960 with its true objects, which is shown at half its size."""
    sample = DetDataSample(gt_instances=truth)
    actual = labelled_panel(Scene('x', np.zeros((960, 1280, 3), np.uint8), {}), sample, 'truth', meta, 'gt')
    assert isinstance(sample.gt_instances.bboxes, type(truth.bboxes)), 'the item stays as it is'
    return actual


@pytest.mark.parametrize('kind', [lambda boxes: boxes, HorizontalBoxes])
def test_boxes_stand_where_they_were_in_a_large_picture(kind: Callable[[torch.Tensor], Any]) -> None:
    actual = shown(InstanceData(bboxes=kind(BOX.clone()), labels=torch.tensor([0])))
    rows, columns = np.nonzero(pixels(actual.source)[..., 0] > 100)
    assert np.abs(np.array([columns.min(), rows.min(), columns.max(), rows.max()]) - (100, 100, 300, 200)).max() <= 3
    assert actual.caption == 'truth: 1 boxes'
    assert shown(InstanceData(bboxes=BOX, labels=torch.tensor([7])), {'classes': None, 'palette': None}).source


def test_a_mask_without_a_box_is_framed() -> None:
    """As SOLO finds them, and labels of masks alone."""
    masks = torch.zeros(1, 60, 80, dtype=torch.bool)
    masks[0, 20:40, 30:70] = True
    picture, actual = np.zeros((60, 80, 3), np.uint8), InstanceData(labels=torch.tensor([0]), masks=masks)
    bare = draw(picture, DetDataSample(pred_instances=actual), META, 'pred')
    actual.bboxes = torch.zeros(1, 4)
    assert np.array_equal(draw(picture, DetDataSample(pred_instances=actual), META, 'pred'), bare)
    assert (bare[20, 30:70] == (250, 0, 0)).all() and not bare[:18].any() and not bare[:, :28].any()


OUTLINE = np.array([200.0, 200, 400, 200, 400, 400, 200, 400])


@pytest.mark.parametrize('kind', [
    torch.from_numpy,
    lambda masks: BitmapMasks(masks, 960, 1280),
    lambda _: PolygonMasks([[OUTLINE]], 960, 1280),
])  # fmt: skip
def test_masks_are_filled_at_the_size_that_is_shown(kind: Callable[[np.ndarray], Any]) -> None:
    """Masks of predictions are tensors; those of the labels are mmdet's own."""
    masks = np.zeros((1, 960, 1280), bool)
    masks[0, 200:400, 200:400] = True
    actual = shown(InstanceData(bboxes=BOX, labels=torch.tensor([0]), masks=kind(masks)))
    red = pixels(actual.source)[..., 0]
    assert red[130:190, 130:190].mean() > 80, 'red in the mask'
    assert red[130:190, 230:290].mean() < 20, 'black in the box beside the mask'
    assert actual.caption == 'truth: 1 masks'


def test_pictures_are_those_where_students_differ() -> None:
    """Of four pictures: the third differs, the second has errors of both; IoU of cat by hand."""
    truth = [[0, 1, 1]] * 4
    alone, taught = (
        {number: segmented(rows, true) for number, (rows, true) in enumerate(zip(predicted, truth, strict=True))}
        for predicted in ([[0, 1, 1], [1, 0, 0], [0, 0, 0], [0, 1, 1]], [[0, 1, 1], [1, 0, 1], [0, 1, 1], [0, 1, 1]])
    )
    assert choose_pictures(alone, taught, 2) == [2, 1]
    sheet = class_sheet({'control': alone, 'kd': taught}, META)
    assert sheet is not None and sheet.caption == 'IoU of each class on 4 pictures'
    # cat: alone 3 right of 3 + 4 + 1, taught 3 of 3 + 1 + 1; dog: 4 of 4 + 1 + 4, taught 7 of 7 + 1 + 1
    assert sheet.rows == [['dog', '44.4', '77.8', '+33.3'], ['cat', '37.5', '60.0', '+22.5']]
    unlabelled = {'control': {0: segmented([0], None)}, 'kd': {0: segmented([0], None)}}
    assert class_sheet(unlabelled, META) is None
