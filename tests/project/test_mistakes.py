"""Mistakes of users: what ``new`` and ``run`` say, in the words of the command line. Nothing is trained or written."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from mmdistill_dense.__main__ import main
from tests.project.commands import CASCADE, FASTER, FASTSCNN, GFL, RETINANET, own_network
from tests.project.folders_of_data import Write, both, box_folder, gone, label, seg_folder, text, wrote

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


def refusal(capsys: pytest.CaptureFixture, words: str, network: str) -> str:
    """What `new` says when it stops."""
    networks = f'--student {network} --teacher {network} --out project --iters 2 --batch 2'
    capsys.readouterr()
    assert main(['new', '--data', 'mine', *f'{networks} {words}'.split()]) == 2
    assert not Path('project').exists() or Path('project').is_file()
    return capsys.readouterr().err


def relabelled(*values: int) -> Write:
    return lambda root: [label(path, values) for path in sorted(root.glob('mine/labels/*/*'))]


def changed(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Write:
    """A change of what the checkpoint holds."""
    return lambda _: torch.save(change(torch.load('mine.pth', weights_only=True)), 'mine.pth')


def trained_on(*classes: str) -> Write:
    return changed(lambda content: {**content, 'meta': {'dataset_meta': {'classes': classes}}})


def case(message: str, words: str = '', do: Write = lambda _: None, soak: bool = False) -> Any:
    """A mistake, the words of the command line, and what is said; ``soak`` for one of a kind that another shows."""
    return pytest.param(do, words, message, marks=[pytest.mark.soak] * soak)


def cut(path: str) -> None:
    content = Path(path).read_bytes()
    Path(path).write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize(('mistake', 'words', 'message'), [
    case('docs/your_labels.md shows the known trees', '', gone('mine/labels')),
    case('a file. Give the folder that holds it', '--data mine/images/train/0.jpg', soak=True),
    case('val/1.png', '--classes a b c', lambda _: label(Path('mine/labels/val/1.png'), (0, 1, 2, 3))),
    case('hold the value 0 alone', '', relabelled(0)),
    case('48x64 pixels, its label image', '', lambda _: Image.new('L', (9, 9), 1).save('mine/labels/val/0.png')),
    case('--classes: a twice', '--classes a b a'),
    case('Separate names by spaces', '--classes a,b,c', soak=True),
    case('4 files cannot be read as pictures: .* train/0.jpg ( .* train/1.jpg ( .* val/0.jpg ( .* train/1.png (', '',
         lambda _: [cut('mine/images/train/0.jpg'), wrote('mine/images/train/1.jpg')(_),
                  wrote('mine/images/val/0.jpg', '<html>')(_), cut('mine/labels/train/1.png')]),
    case('is for detection, --student', '--teacher mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'),
    case('stays as it is. Leave it out', '--teacher dinov2_vits14:d.pth --train-teacher', wrote('d.pth')),
    case('--out project: a file of this name is there', '', wrote('project')),
    case("has ' in it, which no config can hold", "--out Bob's/project"),
    case('--out file/project: cannot be written (Not a directory', '--out file/project', wrote('file')),
    case(f'Did you mean {FASTSCNN}?', '--student fast_scnn_8xb4-160k_cityscapes-512x1024'),
    case('not installed (mmnothing; beside the forks: pip install onedl-mmnothing)', '--student a.py',
         wrote('a.py', "custom_imports = dict(imports=['mmnothing.models'])\n")),
    case('trained teacher are for --teacher-checkpoint', '--teacher a.pth', wrote('a.pth'), soak=True),
    case('--student a.py: the config cannot be read: .* b.py: line 2 is no Python', '--student a.py',
         lambda _: Path('a.py').write_text("_base_ = 'b.py'") and Path('b.py').write_text('x = 1\ny = (\n')),
    case('--student a.py: the config cannot be read', '--student a.py', wrote('a.py', 'x = y\n')),
    case('data_preprocessor.mean is for 6 channels, pictures have 3',
         '--student mmseg::swin/swin-tiny-patch4-window7_upernet_1xb8-20k_levir-256x256.py'),
    case('the config has no model', '--student a.py', wrote('a.py', "default_scope = 'mmseg'")),
    case('--student a.py: a config in the new style (read_base)', '--student a.py',
         lambda _: Path('b.py').touch() or Path('a.py').write_text(NEW_STYLE)),
    case("unknown model 'dinov2_vits41'. Close: dinov2_vits14", '--teacher dinov2_vits41:a.pth'),
    case('Write --teacher dinov2_vits14:FILE', '--teacher dinov2_vits14', soak=True),
    case('--method kd: it does not compare maps', '--teacher dinov2_vits14:mine.pth --method kd'),
    case('--teacher-checkpoint mine.pth: --teacher dinov2_vits14:mine.pth names its weights',
         '--teacher dinov2_vits14:mine.pth --teacher-checkpoint mine.pth'),
    case('does not fit', TAUGHT, lambda _: torch.save({'x': torch.ones(1)}, 'mine.pth')),
    case('on these 4 classes. Without this option', TAUGHT, relabelled(0, 1, 2, 3)),
    case('the published weights predict other classes than your 3', '--teacher-checkpoint auto'),
    case('--teacher-classes: a teacher trained here has your classes', '--teacher-classes auto'),
    case('--train-teacher: it does not go with', '--teacher-checkpoint auto --train-teacher'),
    case('It was trained on the classes sky, road, leaf; the data have road, sky, leaf, in this order',
         f'{TAUGHT} --classes road sky leaf', trained_on('sky', 'road', 'leaf')),
    case(f'--student {RETINANET} for detection', f'--student {RETINANET}'),
    case('--method pkd: it has no options for EncoderDecoder', '--method pkd'),
    case('--unlabelled nowhere: no such folder', '--unlabelled nowhere'),
    case('--teacher-checkpoint no.pth: no such file', '--teacher-checkpoint no.pth'),
    case("--teacher dinov2_vits14:no.pth: no such file 'no.pth'", '--teacher dinov2_vits14:no.pth'),
    case('--teacher timm::resnet50:a.pth: `new` takes no network of timm. Such', '--teacher timm::resnet50:a.pth'),
    case('network of transformers. A student is a network of mmseg:: or mmdet::', '--student transformers::a'),
    case('its backbone may be from timm: docs/own_pair.md, "A backbone of timm"', '--student timm::resnet18'),
    case('its default_scope is', '--teacher mmdistill_dense::_base_/models/toy_teacher.py'),
    case('2 of another shape .* on the classes sky, road, leaf; .* add --teacher-classes auto', TAUGHT,
         both(trained_on('sky', 'road', 'leaf'), relabelled(0, 1, 2, 3))),
])  # fmt: skip
def test_segmentation(mistake: Write, words: str, message: str, capsys: pytest.CaptureFixture) -> None:
    seg_folder(Path('mine'))
    own_network(SCHEDULE)
    mistake(Path())
    output = refusal(capsys, words, 'network.py')
    assert all(part in output for part in message.split(' .* ')), output


@pytest.mark.parametrize(('pattern', 'missing'), [('--images', '--labels'), ('--labels', '--images')])
def test_one_pattern_alone_is_refused_before_all_else(
    pattern: str, missing: str, capsys: pytest.CaptureFixture
) -> None:
    Path('mine').mkdir()
    assert f'{missing}: missing' in refusal(capsys, f'{pattern} a/*', 'not_there.py')


def test_a_dry_run_prints_the_files(capsys: pytest.CaptureFixture) -> None:
    seg_folder(Path('mine'), splits=('train',))
    argv = ['--data', 'mine', '--student', FASTSCNN, '--teacher', FASTSCNN, '--dry', '--random-weights']
    assert main(['new', *argv]) == 0
    printed = capsys.readouterr().out
    assert '# ---- ' in printed and '/pair.py' in printed and not list(Path().glob('*/pair.py'))
    assert 'no folder for val: 3 pictures' in printed


@pytest.mark.parametrize(('mistake', 'words', 'message'), [
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
    case('has two braces in it', '', text('mine/annotations/*', 'red', '{{$A:red}}', count=0)),
])  # fmt: skip
def test_detection(mistake: Write, words: str, message: str, capsys: pytest.CaptureFixture) -> None:
    box_folder(Path('mine'))
    mistake(Path())
    output = refusal(capsys, words, RETINANET)
    assert all(part in output for part in message.split(' .* ')), output
    assert ' kd' not in output.partition('methods fit:')[2], 'a method that is refused'


@pytest.mark.parametrize(('mistake', 'words', 'message'), [
    case('nowhere: no such folder', 'run nowhere'),
    case('mine: no suite.yaml in it, so `new` did not write this folder', 'run mine', lambda _: Path('mine').mkdir()),
    case('Give the folder: mmdistill run project', 'run project/suite.yaml'),
    case('project/kd.py: line ', 'run project', text('project/kd.py', '_base_ =', '_base_ = (')),
    case('train_cfg has no max_iters', 'run project', text('project/control.py', 'max_iters', 'max_iter', count=0)),
    case('project: data.py is missing', 'run project', gone('project/data.py')),
    case('no.pth: no such checkpoint', 'export project/kd.py no.pth out.pth'),
    case('project: a folder, and one config is needed; its configs are', 'train project'),
    case('write their new folder there: all results stay', 'run project', text('project/data.py', '/mine', '/moved')),
])  # fmt: skip
@pytest.mark.usefixtures('root')
def test_projects(mistake: Write, words: str, message: str, capsys: pytest.CaptureFixture) -> None:
    mistake(Path())
    assert main(words.split()) == 2
    assert message in capsys.readouterr().err
