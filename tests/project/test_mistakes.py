"""Mistakes of users: what ``new`` and ``run`` say, in the words of the command line. Nothing is trained or written."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from mmdistill_dense.__main__ import main
from tests.project.folders_of_data import box_folder, label, seg_folder
from tests.project.test_new import CASCADE, FASTSCNN, RETINANET, own_network
from tests.project.test_new_detectors import FASTER, GFL
from tests.project.test_run import project

Do = Callable[[], object]
SCHEDULE = "optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.01))\ntrain_cfg = dict(max_iters=100)\n"


TAUGHT = '--teacher-checkpoint mine.pth'
THREE = 'mmdet::cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py'
NEW_STYLE = """
from mmengine.config import read_base
with read_base():
    from .b import *
from mmseg.models import EncoderDecoder
default_scope = 'mmseg'
model = dict(type=EncoderDecoder)
"""


pytestmark = pytest.mark.usefixtures('folder')


def refused(
    capsys: pytest.CaptureFixture, *words: str, student: str = 'network.py', teacher: str = 'network.py'
) -> str:
    """What `new` says when it stops."""
    capsys.readouterr()
    given = ['--data', 'mine', '--student', student, '--teacher', teacher, '--out', 'project', '--iters', '2']
    assert main(['new', *given, '--batch', '2', *words]) == 2
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


def case(message: str, words: str = '', do: Do = lambda: None, soak: bool = False) -> Any:
    """A mistake, the words of the command line, and what is said; ``soak`` for one of a kind that another shows."""
    return pytest.param(do, words.split(), message, marks=[pytest.mark.soak] * soak)


def wrote(path: str, text: str = '') -> Do:
    return lambda: Path(path).write_text(text)


def cut(path: str) -> None:
    content = Path(path).read_bytes()
    Path(path).write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize(('mistake', 'words', 'message'), [
    case('docs/your_labels.md shows the known trees', '', lambda: shutil.rmtree('mine/labels')),
    case('no known tree of label images', '', lambda: shutil.rmtree('mine/images'), soak=True),
    case('a file. Give the folder that holds it', '--data mine/images/train/0.jpg', soak=True),
    case('val/1.png', '--classes a b c', lambda: label(Path('mine/labels/val/1.png'), (0, 1, 2, 3))),
    case('hold the value 0 alone', '', lambda: every('labels/*/*', lambda p: label(p, (0,)))),
    case('48x64 pixels, its label image', '', lambda: Image.new('L', (9, 9), 1).save('mine/labels/val/0.png')),
    case('--classes: a twice', '--classes a b a'),
    case('Names stand apart', '--classes a,b,c', soak=True),
    case('4 files cannot be read as pictures: .* train/0.jpg ( .* train/1.jpg ( .* val/0.jpg ( .* train/1.png (', '',
         lambda: [cut('mine/images/train/0.jpg'), wrote('mine/images/train/1.jpg')(),
                  wrote('mine/images/val/0.jpg', '<html>')(), cut('mine/labels/train/1.png')]),
    case('mine/classes.txt: 1 names', '', wrote('mine/classes.txt', 'a'), soak=True),
    case('--unlabelled more: 0 pictures in it', '--unlabelled more', lambda: Path('more').mkdir()),
    case('of which 6 label images, 2 of val, 4 of train cannot be taught on: 0', '--unlabelled mine', soak=True),
    case('is for detection, --student', '--teacher mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'),
    case('stays as it is; --head trains a head', '--teacher dinov2_vits14:d.pth --train-teacher', wrote('d.pth')),
    case('--out project: a file of this name is there', '', wrote('project')),
    case("has ' in it, which no config can hold", "--out Bob's/project"),
    case('--out file/project: cannot be written (Not a directory', '--out file/project', wrote('file')),
    case(f'Did you mean {FASTSCNN}?', '--student fast_scnn_8xb4-160k_cityscapes-512x1024'),
    case(f'Did you mean {FASTSCNN}', '--student mmseg::fast_scnn'),
    case('Did you mean mmseg::bisenetv2/bisenet', '--student mmseg::bisenetv2/bisenet'),
    case('not installed (mmnothing; beside the forks: pip install onedl-mmnothing)', '--student a.py',
         wrote('a.py', "custom_imports = dict(imports=['mmnothing.models'])\n")),
    case('Names of configs begin with mmseg::', '--student mmpretrain::resnet18', soak=True),
    case('trained teacher are for --teacher-checkpoint', '--teacher a.pth', wrote('a.pth'), soak=True),
    case('--student a.py: line 2 of its base .* b.py is no Python', '--student a.py',
         lambda: Path('a.py').write_text("_base_ = 'b.py'") and Path('b.py').write_text('x = 1\ny = (\n')),
    case('--student a.py: line 1 of the config is no', '--student a.py', wrote('a.py', 'x = (\n')),
    case('--student a.py: the config cannot be read', '--student a.py', wrote('a.py', 'x = y\n')),
    case('data_preprocessor.mean is for 6 channels, pictures have 3',
         '--student mmseg::swin/swin-tiny-patch4-window7_upernet_1xb8-20k_levir-256x256.py'),
    case('the config has no model', '--student a.py', wrote('a.py', "default_scope = 'mmseg'")),
    case('--student a.json: the config cannot', '--student a.json', wrote('a.json', 'hello'), soak=True),
    case('--student a.py: a config in the new style (read_base)', '--student a.py',
         lambda: Path('b.py').touch() or Path('a.py').write_text(NEW_STYLE)),
    case("unknown model 'dinov2_vits41'. Close: dinov2_vits14", '--teacher dinov2_vits41:a.pth'),
    case('Write --teacher dinov2_vits14:FILE', '--teacher dinov2_vits14', soak=True),
    case('--method kd: it does not compare maps', '--teacher dinov2_vits14:mine.pth --method kd'),
    case('--teacher-checkpoint mine.pth: --teacher dinov2_vits14:mine.pth names its weights',
         '--teacher dinov2_vits14:mine.pth --teacher-checkpoint mine.pth'),
    case('mine.pth: .* is no readable checkpoint', TAUGHT, lambda: cut('mine.pth'), soak=True),
    case("All of them fit without the prefix 'architecture.'", TAUGHT, renamed(lambda name: f'architecture.{name}')),
    case('does not fit', TAUGHT, lambda: torch.save({'x': torch.ones(1)}, 'mine.pth')),
    case('on these 4 classes. Without this option', TAUGHT,
         lambda: every('labels/*/*', lambda p: label(p, (0, 1, 2, 3)))),
    case('the published weights predict other classes than your 3', '--teacher-checkpoint auto'),
    case('--teacher-classes: a teacher trained here has your classes', '--teacher-classes auto'),
    case('It was trained on the classes sky, road, leaf; the data have road, sky, leaf, in this order',
         f'{TAUGHT} --classes road sky leaf', trained_on('sky', 'road', 'leaf')),
    case("--student='mmseg::fastscnn/fast_scnn': mmseg has no such config", '--student mmseg::fastscnn/fast_scnn'),
    case(f'--student {RETINANET} for detection', f'--student {RETINANET}'),
    case('--method pkd: it has no options for EncoderDecoder', '--method pkd'),
    case('--unlabelled nowhere: no such folder', '--unlabelled nowhere'),
    case('--teacher-checkpoint no.pth: no such file', '--teacher-checkpoint no.pth'),
    case("--teacher dinov2_vits14:no.pth: no such file 'no.pth'", '--teacher dinov2_vits14:no.pth'),
    case('--teacher timm::resnet50:a.pth: `new` takes no network of timm. Such', '--teacher timm::resnet50:a.pth'),
    case('network of transformers. A student is a network of mmseg:: or mmdet::', '--student transformers::a'),
    case('its backbone may be from timm: docs/own_pair.md, "A backbone of timm"', '--student timm::resnet18'),
    case('--out /proc/nope: cannot be written (No such file', '--out /proc/nope'),
    case('its default_scope is', '--teacher mmdistill_dense::_base_/models/toy_teacher.py'),
    case('2 of another shape .* on the classes sky, road, leaf; .* add --teacher-classes auto', TAUGHT,
         lambda: [trained_on('sky', 'road', 'leaf')(), every('labels/*/*', lambda p: label(p, (0, 1, 2, 3)))]),
])  # fmt: skip
def test_segmentation(mistake: Do, words: list[str], message: str, capsys: pytest.CaptureFixture) -> None:
    seg_folder(Path('mine'))
    own_network(SCHEDULE)
    mistake()
    said = refused(capsys, *words)
    assert all(part in said for part in message.split(' .* ')), said


def test_one_pattern_alone_is_refused_before_anything_is_read(capsys: pytest.CaptureFixture) -> None:
    seg_folder(Path('mine'))
    for given, missing in (('--images', '--labels'), ('--labels', '--images')):
        assert f'{missing}: missing' in refused(capsys, given, 'a/*', student='not_there.py')


def test_training_pictures_alone_are_divided_and_rare_values_are_told(capsys: pytest.CaptureFixture) -> None:
    seg_folder(Path('mine'), splits=('train',))
    label(Path('mine/labels/train/2.png'), (0, 1, 2, 77))
    given = ['--data', 'mine', '--student', FASTSCNN, '--teacher', FASTSCNN, '--dry', '--random-weights']
    assert main(['new', *given]) == 0
    said = capsys.readouterr().out
    assert '# ---- project/pair.py' in said and not Path('project').exists()
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


@pytest.mark.parametrize(('mistake', 'words', 'message'), [
    case('but no list of categories', '', content(lambda found: found.pop('categories'))),
    case('instances_train.json cannot be read (JSON', '', lambda: cut('mine/annotations/instances_train.json')),
    case('--classes Red: ', '--classes Red'),
    case('a teacher of its own (teacher_config)', '--student mmdet::ld/ld_r18-gflv1-r101_fpn_1x_coco.py'),
    case('--teacher: CascadeRCNN is trained on masks', f'--teacher {CASCADE}'),
    case('CenterNet needs the step RandomCenterCropPad of its own tests',
         '--teacher mmdet::centernet/centernet_r18_8xb16-crop512-140e_coco.py'),
    case('FastRCNN needs a file of proposals', '--teacher mmdet::fast_rcnn/fast-rcnn_r50_fpn_1x_coco.py'),
    *(case(f'--method {method}: --teacher {GFL} has no bbox_head.retina_cls to compare with. These methods fit: .* pkd',
           f'--teacher {GFL} --method pkd {method}') for method in ('kd', 'dist')),
    # the options of R-CNNs name its one box head; a cascade has three
    case(f'--method kd: --student {THREE} has no roi_head.bbox_head.fc_cls to compare with.',
         f'--student {THREE} --teacher {FASTER} --method kd'),
    case('has two braces in it', '',
         lambda: every('annotations/*', lambda p: p.write_text(p.read_text().replace('red', '{{$A:red}}')))),
])  # fmt: skip
def test_detection(mistake: Do, words: list[str], message: str, capsys: pytest.CaptureFixture) -> None:
    box_folder(Path('mine'))
    mistake()
    said = refused(capsys, *words, student=RETINANET, teacher=RETINANET)
    assert all(part in said for part in message.split(' .* ')), said
    assert ' kd' not in said.partition('methods fit:')[2], 'a method that is refused'


def break_file(name: str, old: str, new: str) -> Do:
    def do() -> None:
        path = Path('project', name)
        path.write_text(path.read_text().replace(old, new))

    return do


PROJECTS: list[tuple[str, str, Do]] = [
    ('nowhere: no such folder', 'run nowhere', lambda: None),
    ('mine: no suite.yaml in it, so `new` did not write this folder', 'run mine', lambda: None),
    ('Give the folder: mmdistill run project', 'run project/suite.yaml', lambda: None),
    ('project/kd.py: line ', 'run project', break_file('kd.py', '_base_ =', '_base_ = (')),
    ('train_cfg has no max_iters', 'run project', break_file('control.py', 'max_iters', 'max_iter')),
    ('project: data.py is missing', 'run project', lambda: Path('project/data.py').unlink()),
    ('no.pth: no such checkpoint', 'export project/kd.py no.pth out.pth', lambda: None),
    ('project: a folder, and one config is needed; its configs are', 'train project', lambda: None),
    ('a link keeps all results: ln -s NEW_PLACE ', 'run project', lambda: Path('mine').rename('moved')),
]


def test_projects(capsys: pytest.CaptureFixture) -> None:
    shutil.copytree(project(), 'sound')
    for message, words, mistake in PROJECTS:
        shutil.rmtree('project')
        shutil.copytree('sound', 'project')
        capsys.readouterr()
        mistake()
        assert main(words.split()) == 2, message
        assert message in capsys.readouterr().err
