"""Mistakes of users: what ``new`` and ``run`` say, in the words of the command line. Nothing is trained or written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from mmdistill_dense.__main__ import main
from mmdistill_dense.apps.project import sides as fetched_weights
from mmdistill_dense.apps.project.cli import main_new
from tests.project.folders_of_data import box_folder, label, seg_folder
from tests.project.test_new import FASTSCNN, RETINANET, own_network
from tests.project.test_run import project

Do = Callable[[], object]
LONG = pytest.mark.soak  # cases of a kind that another one shows
SCHEDULE = "optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.01))\ntrain_cfg = dict(max_iters=100)\n"


NEW_STYLE = """
from mmengine.config import read_base
with read_base():
    from .b import *
from mmseg.models import EncoderDecoder
default_scope = 'mmseg'
model = dict(type=EncoderDecoder)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fetched_weights, '_reachable', lambda host: False)
    return tmp_path


def refused(
    capsys: pytest.CaptureFixture, *words: str, student: str = 'network.py', teacher: str = 'network.py'
) -> str:
    """What `new` says when it stops."""
    capsys.readouterr()
    given = ['--data', 'mine', '--student', student, '--teacher', teacher, '--out', 'project', '--iters', '2']
    assert main_new([*given, '--batch', '2', *words]) == 2
    assert not Path('project').exists() or Path('project').is_file()
    return capsys.readouterr().err


def every(pattern: str, change: Callable[[Path], object]) -> None:
    for path in sorted(Path('mine').glob(pattern)):
        change(path)


def trained_on(*classes: str) -> Do:
    """A change of the checkpoint, which then tells the classes."""

    def do() -> None:
        content = torch.load('mine.pth', weights_only=True)
        torch.save({**content, 'meta': {'dataset_meta': {'classes': classes}}}, 'mine.pth')

    return do


def renamed(name_of: Callable[[str], str]) -> Do:
    """A change of the names in the checkpoint."""

    def do() -> None:
        state = torch.load('mine.pth', weights_only=True)['state_dict']
        torch.save({'state_dict': {name_of(name): value for name, value in state.items()}}, 'mine.pth')

    return do


def cut(path: str) -> None:
    content = Path(path).read_bytes()
    Path(path).write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize(
    ('mistake', 'words', 'message'),
    [
        (lambda: shutil.rmtree('mine/labels'), (), 'rename it so'),
        pytest.param(lambda: shutil.rmtree('mine/images'), (), 'A picture ends in .jpg', marks=LONG),
        pytest.param(
            lambda: None, ('--data', 'mine/images/train/0.jpg'), 'a file. Give the folder that holds it', marks=LONG
        ),
        pytest.param(
            lambda: every('images/*/*', lambda p: p.with_suffix('.txt').touch() or p.unlink()),
            (),
            'A picture ends in',
            marks=LONG,
        ),
        (lambda: label(Path('mine/labels/val/1.png'), (0, 1, 2, 3)), ('--classes', 'a', 'b', 'c'), 'val/1.png'),
        (lambda: every('labels/*/*', lambda p: label(p, (0,))), (), 'hold the value 0 alone'),
        (lambda: Image.new('L', (9, 9), 1).save('mine/labels/val/0.png'), (), '48x64 pixels, its label image'),
        (lambda: None, ('--classes', 'a', 'b', 'a'), '--classes: a twice'),
        pytest.param(lambda: None, ('--classes', 'a,b,c'), 'Names stand apart', marks=LONG),
        (lambda: cut('mine/images/train/0.jpg'), (), 'images/train/0.jpg cannot be read as a picture'),
        pytest.param(
            lambda: Path('mine/labels/train/1.png').write_text('x'), (), 'labels/train/1.png cannot be read', marks=LONG
        ),
        pytest.param(lambda: Path('mine/classes.txt').write_text('a'), (), 'mine/classes.txt: 1 names', marks=LONG),
        (lambda: Path('more').mkdir(), ('--unlabelled', 'more'), '--unlabelled more: 0 pictures in it'),
        pytest.param(
            lambda: None,
            ('--unlabelled', 'mine'),
            'of which 6 label images, 2 of val, 4 of train cannot be taught on: 0 are left',
            marks=LONG,
        ),
        (lambda: None, ('--unlabelled', 'mine/images/val'), 'of which 2 of val cannot be taught on: 0 are left'),
        (lambda: Path('project').touch(), (), '--out project: a file of this name is there'),
        (lambda: None, ('--out', "Bob's/project"), "has ' in it, which no config can hold"),
        (
            lambda: Path('file').touch(),
            ('--out', 'file/project'),
            '--out file/project: cannot be written (Not a directory',
        ),
        (lambda: None, ('--student', 'fast_scnn_8xb4-160k_cityscapes-512x1024'), f'Did you mean {FASTSCNN}?'),
        (lambda: None, ('--student', 'mmseg::fast_scnn'), f'Did you mean {FASTSCNN}'),
        (lambda: None, ('--student', 'mmseg::bisenetv2/bisenet'), 'Did you mean mmseg::bisenetv2/bisenet'),
        (
            lambda: Path('a.py').write_text("custom_imports = dict(imports=['mmnothing.models'])\n"),
            ('--student', 'a.py'),
            'not installed (mmnothing; beside the forks: pip install onedl-mmnothing)',
        ),
        pytest.param(
            lambda: None, ('--student', 'mmpretrain::resnet18'), 'Names of configs begin with mmseg::', marks=LONG
        ),
        pytest.param(
            lambda: Path('a.pth').touch(),
            ('--teacher', 'a.pth'),
            'trained teacher are for --teacher-checkpoint',
            marks=LONG,
        ),
        (
            lambda: Path('a.py').write_text("_base_ = 'b.py'") and Path('b.py').write_text('x = 1\ny = (\n'),
            ('--student', 'a.py'),
            '--student a.py: line 2 of its base .* b.py is no Python',
        ),
        (
            lambda: Path('a.py').write_text('x = (\n'),
            ('--student', 'a.py'),
            '--student a.py: line 1 of the config is no',
        ),
        (
            lambda: Path('a.py').write_text('x = y\n'),
            ('--student', 'a.py'),
            '--student a.py: the config cannot be read',
        ),
        (lambda: Path('a.py').write_text("default_scope = 'mmseg'"), ('--student', 'a.py'), 'the config has no model'),
        pytest.param(
            lambda: Path('a.json').write_text('hello'),
            ('--student', 'a.json'),
            '--student a.json: the config cannot',
            marks=LONG,
        ),
        (lambda: None, ('--teacher', 'dinov2_vits41:a.pth'), "unknown model 'dinov2_vits41'. Close: dinov2_vits14"),
        pytest.param(lambda: None, ('--teacher', 'dinov2_vits14'), 'Write --teacher dinov2_vits14:FILE', marks=LONG),
        (
            lambda: None,
            ('--teacher', 'dinov2_vits14:mine.pth', '--method', 'kd'),
            '--method kd: it does not compare maps',
        ),
        (
            lambda: None,
            ('--teacher', 'dinov2_vits14:mine.pth', '--teacher-checkpoint', 'mine.pth'),
            '--teacher-checkpoint mine.pth: --teacher dinov2_vits14:mine.pth names its weights',
        ),
        pytest.param(
            lambda: cut('mine.pth'),
            ('--teacher-checkpoint', 'mine.pth'),
            'mine.pth: .* is no readable checkpoint',
            marks=LONG,
        ),
        (
            renamed(lambda name: f'architecture.{name}'),
            ('--teacher-checkpoint', 'mine.pth'),
            "All of them fit without the prefix 'architecture.'",
        ),
        (lambda: torch.save({'x': torch.ones(1)}, 'mine.pth'), ('--teacher-checkpoint', 'mine.pth'), 'does not fit'),
        (
            lambda: every('labels/*/*', lambda p: label(p, (0, 1, 2, 3))),
            ('--teacher-checkpoint', 'mine.pth'),
            'on these 4 classes. Without this option',
        ),
        (lambda: None, ('--teacher-checkpoint', 'auto'), 'the published weights predict other classes than your 3'),
        (
            trained_on('sky', 'road', 'leaf'),
            ('--teacher-checkpoint', 'mine.pth', '--classes', 'road', 'sky', 'leaf'),
            'it was trained on the classes sky, road, leaf; the data have road, sky, leaf, in this order',
        ),
        (
            lambda: Path('b.py').touch() or Path('a.py').write_text(NEW_STYLE),
            ('--student', 'a.py'),
            '--student a.py: a config in the new style (read_base)',
        ),
    ],
)
def test_segmentation(mistake: Do, words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture) -> None:
    seg_folder(Path('mine'))
    own_network(SCHEDULE)
    mistake()
    said = refused(capsys, *words)
    assert all(part in said for part in message.split(' .* ')), said


def test_training_pictures_alone_are_divided_and_rare_values_are_told(capsys: pytest.CaptureFixture) -> None:
    seg_folder(Path('mine'), splits=('train',))
    label(Path('mine/labels/train/2.png'), (0, 1, 2, 77))
    given = ['--data', 'mine', '--student', FASTSCNN, '--teacher', FASTSCNN, '--dry', '--random-weights']
    assert main_new(given) == 0
    said = capsys.readouterr().out
    assert 'no folder for val: 3 pictures' in said
    assert 'the value 77 stands in one label image alone: ' in said and 'train/2.png' in said


def content(change: Callable[[dict[str, Any]], object], split: str = 'train') -> Do:
    """A change of a label file."""

    def do() -> None:
        file = Path(f'mine/annotations/instances_{split}.json')
        found = json.loads(file.read_text())
        change(found)
        file.write_text(json.dumps(found))

    return do


def each(kind: str, **values: Any) -> Callable[[dict[str, Any]], object]:
    """Set values of every entry; None removes a key."""

    def change(found: dict[str, Any]) -> None:
        for one in found[kind]:
            one.update(values)
            for key in [key for key, value in values.items() if value is None]:
                del one[key]

    return change


@pytest.mark.parametrize(
    ('mistake', 'words', 'message'),
    [
        (content(lambda found: found.pop('categories')), (), 'but no list of categories'),
        (lambda: cut('mine/annotations/instances_train.json'), (), 'instances_train.json is damaged, or no json file'),
        (content(each('annotations', bbox=None)), (), 'annotations[0] has no bbox'),
        pytest.param(content(each('annotations', category_id=None)), (), '[0] has no category_id', marks=LONG),
        pytest.param(content(each('images', file_name=None)), (), 'images[0] has no file_name', marks=LONG),
        pytest.param(content(each('annotations', image_id=99)), (), 'have an unknown image_id: 99', marks=LONG),
        (
            content(each('annotations', bbox=[9, 9, -5, -5])),
            (),
            'without width or height',
        ),
        pytest.param(content(lambda found: found.update(annotations=[])), (), 'has no box of red, white', marks=LONG),
        (
            content(lambda found: found['categories'].reverse(), 'val'),
            (),
            'lists the categories white, red; the classes',
        ),
        (content(each('images', width=10)), (), 'has 48x10 pixels (height x width); it has 48x64'),
        pytest.param(
            lambda: Path('mine/train/1.jpg').write_text('x'), (), 'train/1.jpg cannot be read as a picture', marks=LONG
        ),
        (lambda: None, ('--classes', 'Red'), '--classes Red: '),
        pytest.param(lambda: shutil.rmtree('mine/annotations'), (), 'no json file.', marks=LONG),
        (
            lambda: shutil.rmtree('mine/annotations') or Path('mine/train/0.xml').touch(),
            (),
            '1 .xml files, as of VOC: `pip install labelformat`',
        ),
        (
            lambda: every('annotations/*', lambda p: p.write_text(p.read_text().replace('red', '{{$A:red}}'))),
            (),
            'has two braces in it',
        ),
    ],
)
def test_detection(mistake: Do, words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture) -> None:
    box_folder(Path('mine'))
    mistake()
    assert message in refused(capsys, *words, student=RETINANET, teacher=RETINANET)


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (('new', '--data', 'm', '--student', 's', '--teacher', 't', '--epochs', '3'), '--epochs: it is --iters here'),
        (
            ('new', '--data', 'm', '--student', 's', '--teacher', 't', '--batchs', '3'),
            '--batchs: no such option. Close',
        ),
        (('new', '--data', 'm', '--student', 's', '--teacher', 't', 'x'), 'x: belongs to no option'),
        (('run', 'project', '--iters', '3'), '--iters: `new` takes this option, `run` does not'),
    ],
)
def test_unknown_options_have_a_close_name(words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def break_file(name: str, old: str, new: str) -> Do:
    def do() -> None:
        path = Path('project', name)
        path.write_text(path.read_text().replace(old, new))

    return do


@pytest.mark.parametrize(
    ('mistake', 'words', 'message'),
    [
        pytest.param(lambda: None, ('run', 'nowhere'), 'nowhere: no such folder', marks=LONG),
        (lambda: None, ('run', 'mine'), 'mine: no suite.yaml in it, so `new` did not write this folder'),
        (lambda: None, ('run', 'project/suite.yaml'), 'Give the folder: python -m mmdistill_dense run project'),
        (break_file('kd.py', '_base_ =', '_base_ = ('), ('run', 'project'), 'project/kd.py: line '),
        (break_file('control.py', 'max_iters', 'max_iter'), ('run', 'project'), 'train_cfg has no max_iters'),
        (lambda: Path('project/data.py').unlink(), ('run', 'project'), 'project: data.py is missing'),
        (lambda: Path('mine').rename('moved'), ('run', 'project'), 'a link keeps all results: ln -s NEW_PLACE '),
        (lambda: None, ('chek', 'project'), 'chek: no such command. Close: check'),
        pytest.param(
            lambda: None, ('export', 'project/kd.py', 'no.pth', 'out.pth'), 'no.pth: no such file', marks=LONG
        ),
        pytest.param(
            lambda: None,
            ('train', 'project'),
            'project: a folder, and one config is needed; its configs are',
            marks=LONG,
        ),
    ],
)
def test_projects(mistake: Do, words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture) -> None:
    project()
    capsys.readouterr()
    mistake()
    assert main(words) == 2
    assert message in capsys.readouterr().err
