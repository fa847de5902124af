"""``predict``: what a student finds in pictures and folders, against mmseg's and mmdet's own functions."""

import json
import os
import re
import shutil
import signal
import time
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import mmcv
import numpy as np
import pytest
import torch
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from mmseg.models import EncoderDecoder, SegDataPreProcessor
from PIL import Image
from pycocotools.coco import COCO

from mmdistill_dense.__main__ import main
from mmdistill_dense.apps.inspect import inference
from mmdistill_dense.apps.project import predict
from mmdistill_dense.apps.project.predict import Student
from tests import toys
from tests.docs_blocks import ROOT
from tests.faults.tools import full_disk
from tests.project.folders_of_data import SIZE, picture, values

APART = "mmcv.VideoReader('way.mp4').cvt2frames('frames')"
TOGETHER = "mmcv.frames2video('predictions/drawn/frames', 'drawn.mp4', fps=25)"
pytestmark = pytest.mark.usefixtures('folder')


@pytest.fixture
def folder(folder: Path) -> Path:
    for number, name in enumerate('abc'):
        picture(Path(f'pictures/{name}/{number}.png'), number)
    return folder


@cache
def exported(kind: str) -> Path:
    """A folder with weights and their plain config, as `export` writes them; made once."""
    few = dict(max_per_img=8)  # each is drawn
    seg = kind == 'segmentor'
    net = toys.seg_net('fcn') if seg else toys.det_net(kind, test_cfg=few if kind == 'retinanet' else dict(rcnn=few))
    scope, classes = ('mmseg', toys.NUM_CLASSES) if seg else ('mmdet', toys.NUM_CLASSES - 1)
    init_default_scope(scope)
    network, folder = toys.build_plain(net), toys.fresh_dir()
    with torch.no_grad():
        for module in network.modules():  # an untrained head finds nothing
            if hasattr(module, 'retina_cls'):
                module.retina_cls.bias.fill_(-0.5)
    names = [f'class {number}' for number in range(classes)]
    meta = {'dataset_meta': {'classes': names}}
    torch.save({'state_dict': network.state_dict(), 'meta': meta}, folder / 'student.pth')
    steps = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(96, 72))]
    keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
    packed = [dict(type='LoadAnnotations'), dict(type='PackSegInputs')]
    pipeline = [*steps, *packed] if seg else [*steps, dict(type='PackDetInputs', meta_keys=keys)]
    loader = dict(batch_size=1, dataset=dict(type='RepeatDataset', dataset=dict(type='X', pipeline=pipeline)))
    Config(dict(default_scope=scope, model=toys._as_model(net), test_dataloader=loader)).dump(folder / 'student.py')
    return folder


def student(kind: str = 'segmentor', keep_ratio: bool = False) -> str:
    """A copy of an exported student in the working folder."""
    for file in exported(kind).iterdir():
        shutil.copy(file, file.name)
    if keep_ratio:
        config = Config.fromfile('student.py')
        config.test_dataloader.dataset.dataset.pipeline[1].keep_ratio = True
        config.dump('student.py')
    return 'student.pth'


def call(*words: str, out: str = 'out', code: int = 0) -> None:
    assert main(['predict', *words, '--out', out, '--device', 'cpu']) == code


def theirs(scope: str, file: str) -> Any:
    """The prediction of a network that mmseg or mmdet builds and asks by itself."""
    config = Config.fromfile('student.py')
    config.test_pipeline = config.test_dataloader.dataset.dataset.pipeline
    if scope == 'mmseg':
        from mmseg.apis import inference_model, init_model

        return inference_model(init_model(config, 'student.pth', device='cpu'), file)
    from mmdet.apis import inference_detector, init_detector

    return inference_detector(init_detector(config, 'student.pth', device='cpu', palette='random'), file)


def test_a_folder_becomes_label_images(capsys: pytest.CaptureFixture) -> None:
    call(student(), 'pictures')
    for name in ('a/0', 'b/1', 'c/2'):
        actual = cv2.imread(f'out/labels/pictures/{name}.png', cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(actual, theirs('mmseg', f'pictures/{name}.png').pred_sem_seg.data[0].numpy())
        drawn = cv2.imread(f'out/drawn/pictures/{name}.png')
        assert drawn.shape == (*SIZE, 3) and not np.array_equal(drawn, cv2.imread(f'pictures/{name}.png'))
    out = capsys.readouterr().out
    assert '3 PNG; a value is the number of a class: 0 class 0' in out
    times = r'time     (\d+\.\d) ms a picture in the network \(median of 2\), on cpu.*\n +(.*) ms with n'
    match = re.search(times, out)
    assert match and min(map(float, match.groups())) > 0
    assert re.search(r'colours  class 0 #[0-9a-f]{6}, class 1 #', out)


def test_labels_of_other_classes_are_not_mixed(capsys: pytest.CaptureFixture) -> None:
    for name in ('0.bmp', '0.png.jpg'):
        Image.open('pictures/a/0.png').save(f'pictures/a/{name}')
    call(student(), 'pictures/a')
    for name in ('0.png', '0.bmp', '0.png.jpg', '0.png'):  # one call each
        call('student.pth', f'pictures/a/{name}', out='apart')
    for out in ('out', 'apart'):
        names = sorted(path.name for path in Path(f'{out}/labels/pictures/a').iterdir())
        assert names == ['0.png', '0.png.jpg.png', '0.png.png']
    content = torch.load('student.pth', weights_only=True)
    content['meta']['dataset_meta']['classes'][0] = 'another'
    torch.save(content, 'student.pth')
    call('student.pth', 'pictures/a', code=2)
    assert '--out out: its labels are of other classes (class 0, class 1' in capsys.readouterr().err


def test_results_of_outer_pictures_stay_in_out(monkeypatch: pytest.MonkeyPatch) -> None:
    weights, picture = Path(student()).resolve(), Path('pictures/a/0.png').resolve()
    before = picture.read_bytes()
    Path('deep').mkdir()
    monkeypatch.chdir('deep')
    call(str(weights), '../pictures/a')
    relative = Path(*picture.parts[1:])
    assert cv2.imread(str(Path('out/labels', relative)), cv2.IMREAD_UNCHANGED).shape == SIZE
    assert Path('out/drawn', relative).is_file() and picture.read_bytes() == before


def test_boxes_are_coco_json(capsys: pytest.CaptureFixture) -> None:
    call(student('retinanet'), 'pictures/a/0.png', 'pictures/b', '--threshold', '0.35')
    with open('out/predictions.json', encoding='utf-8') as file:
        content = json.load(file)
    assert [image['file_name'] for image in content['images']] == ['pictures/a/0.png', 'pictures/b/1.png']
    names = [f'class {number}' for number in range(toys.NUM_CLASSES - 1)]
    assert content['categories'] == [{'id': number, 'name': name} for number, name in enumerate(names, 1)]
    expected = theirs('mmdet', 'pictures/a/0.png').pred_instances
    expected = expected[expected.scores >= 0.35]
    annotations = [entry for entry in content['annotations'] if entry['image_id'] == 1]
    assert len(annotations) == len(expected) > 0
    for row, box, score, kind in zip(annotations, expected.bboxes, expected.scores, expected.labels, strict=True):
        x, y, w, h = row['bbox']
        np.testing.assert_allclose([x, y, x + w, y + h], box.numpy(), atol=0.02)
        assert row['score'] == pytest.approx(float(score), abs=1e-4) and row['category_id'] == int(kind) + 1
    assert len({entry['id'] for entry in content['annotations']}) == len(content['annotations'])
    COCO('out/predictions.json')
    assert Path('out/drawn/pictures/b/1.png').is_file() and 'boxes of 0.35 or more, in 2 ' in capsys.readouterr().out
    assert main(['predict', student('cascade_mask_rcnn'), 'pictures/a/0.png', '--threshold', '0']) == 0
    coco = COCO('predictions/predictions.json')
    masks = np.stack([coco.annToMask(entry) for entry in coco.dataset['annotations']])
    expected = theirs('mmdet', 'pictures/a/0.png').pred_instances.masks.numpy()
    np.testing.assert_array_equal(masks, expected)
    assert [entry['area'] for entry in coco.dataset['annotations']] == expected.sum((1, 2)).tolist()


def test_mmcv_takes_a_video_apart_and_puts_it_together() -> None:
    writer = cv2.VideoWriter('way.mp4', cv2.VideoWriter_fourcc(*'mp4v'), 10, SIZE[::-1])
    for number in range(3):
        writer.write(np.random.default_rng(number).integers(0, 255, (*SIZE, 3), np.uint8))
    writer.release()
    for page in ('use_the_student.md', 'removed.md'):
        assert all(line in (ROOT / 'docs' / page).read_text() for line in (APART, TOGETHER))
    exec(APART)
    call(student(), 'frames', out='predictions')
    exec(TOGETHER)
    names = sorted(path.name for path in Path('predictions/labels/frames').iterdir())
    assert names == [f'{number:06d}.png' for number in range(3)]
    drawn = mmcv.VideoReader('drawn.mp4')
    assert len(drawn) == 3 and drawn.fps == 25 and drawn[2].shape == (*SIZE, 3)


def test_the_config_of_a_run_serves_too() -> None:
    weights = student()
    model = toys.model_config(toys.seg_net('fcn'), toys.seg_teacher('fcn'))
    plain = Config.fromfile('student.py')
    Config(dict(default_scope='mmseg', model=model, test_dataloader=plain.test_dataloader)).dump('run.py')
    call('run.py', 'pictures/a/0.png', '--checkpoint', weights, out='run')
    call(weights, 'pictures/a/0.png', out='plain')
    first, second = (Path(f'{name}/labels/pictures/a/0.png').read_bytes() for name in ('run', 'plain'))
    assert first == second
    assert predict.find_student(Path('kd:toy_seg'), weights) == (Path('kd:toy_seg'), Path(weights))  # and a name


@pytest.mark.parametrize(('words', 'message'), [
    (['nowhere.pth', 'pictures'], 'nowhere.pth: no such file'),
    (['student.py', 'pictures'], 'student.py: a config needs its weights: --checkpoint FILE'),
    (['student.pth', 'none.png'], 'none.png: no such file or folder'),
    (['student.pth', 'student.py'], 'student.py: no picture. Known endings: .jpg, .jpeg'),
    (['pictures', 'pictures'], 'pictures: no suite.yaml in it'),
    (['other.pth', 'pictures'], 'other.pth: its config other.py is not beside it'),
    (['project', 'pictures'], 'project: no student.pth in it. `mmdistill run project` trains'),
    (['my 2', 'pictures'], "my 2: no student.pth in it. `mmdistill run 'my 2'` trains"),
    (['my 2', 'pictures', '--method', 'kdd'], "my 2: no student_kdd.pth in it. `mmdistill run 'my 2' --export kdd`"),
    (['my 2', 'pictures', '--method', 'kd', '--checkpoint', 'student.pth'], 'my 2 has its own: leave it out'),
    (['student.pth', 'pictures', '--checkpoint', 'student.pth'], 'student.pth has its own: leave it out'),
    (['student.pth', 'pictures', '--method', 'kd'], '--method kd: names a student of a project, and student.pth'),
    (['student.pth', 'pictures', '--threshold', '0.5'], '--threshold 0.5: is for boxes, and student.pth labels'),
    (['student.pth', 'pictures', '--device', 'cuda:77'], '--device cuda:77: this machine has'),
    (['student.pth', 'broken.png'], 'broken.png: cannot be read as a picture'),
    (['student.pth', 'pictures', 'way.MP4'], f'way.MP4: no picture. predict VIDEO has left: {APART} writes its frames'),
    (['nameless.pth', 'pictures'], 'its meta holds no class names'),
    (['untested.pth', 'pictures'], 'The config has neither test_dataloader nor val_dataloader'),
])  # fmt: skip
def test_mistakes_are_told(words: list[str], message: str, capsys: pytest.CaptureFixture) -> None:
    student()
    Path('other.pth').touch()
    for name in ('broken.png', 'way.MP4'):
        Path(name).write_text('no picture')
    for name, students in {'project': (), 'my 2': ('kd', 'pcd')}.items():
        Path(name).mkdir()
        for file in ('suite.yaml', *(f'student_{student}.pth' for student in students)):
            Path(name, file).touch()
    torch.save({'state_dict': torch.load('student.pth')['state_dict'], 'meta': {}}, 'nameless.pth')
    shutil.copy('student.py', 'nameless.py')
    shutil.copy('student.pth', 'untested.pth')
    Path('untested.py').write_text(Path('student.py').read_text() + '\ntest_dataloader = None\n')
    assert main(['predict', *words]) == 2
    assert message in capsys.readouterr().err


def asked(head: str, classes: int = 2) -> Student:
    """A student that nobody has to ask: what it finds is given."""
    load = Compose([dict(type='LoadImageFromFile', color_type='unchanged')])
    network: Any = SimpleNamespace(**{head: None})
    return Student(network, [f'class {number}' for number in range(classes)], 0.5, Path('out'), load, dict)


def test_drawings_of_a_prediction() -> None:
    init_default_scope('mmseg')
    cv2.imwrite('deep.png', np.full((4, 5), 257 * 40, np.uint16))
    cv2.imwrite('red.png', np.full((4, 5, 3), (0, 0, 255), np.uint8))
    deep, red = (asked('decode_head').read(Path(name))[0] for name in ('deep.png', 'red.png'))
    assert deep.shape == (4, 5, 3) and (deep == 40).all()
    assert (red == (255, 0, 0)).all()
    # Boxes of the threshold or more; classes above 255 in 16 bits.
    scores = torch.tensor([0.4, 0.6])
    boxes = InstanceData(bboxes=torch.tensor([[0.0, 0, 2, 3]] * 2), scores=scores, labels=torch.ones(2))
    finder = asked('bbox_head')
    finder.save(SimpleNamespace(ori_shape=(4, 5), pred_instances=boxes), 'x.png', '')
    assert [box['score'] for box in finder.boxes['x.png'][1]] == [0.6]
    labels = SimpleNamespace(data=torch.full((1, 2, 2), 299))
    asked('decode_head', 300).save(SimpleNamespace(pred_sem_seg=labels), 'x.png', 'x.png')
    assert (cv2.imread('out/labels/x.png', cv2.IMREAD_UNCHANGED) == 299).all()


def test_boxes_of_masks_alone_are_their_extents() -> None:
    """SOLO gives boxes of zeros. Those of a Mask R-CNN stay, which are no extents of its masks."""
    masks = torch.zeros(3, 40, 60, dtype=torch.bool)
    masks[0, 10:30, 5:25] = masks[1, :1, 59:] = True  # and one without a pixel
    for corners, extents in (
        (torch.zeros(3, 4), [[5, 10, 20, 20], [59, 0, 1, 1], [0, 0, 0, 0]]),
        (torch.tensor([[4.0, 9, 26, 31], [0, 0, 0, 0], [1, 1, 2, 3]]), [[4, 9, 22, 22], [0, 0, 0, 0], [1, 1, 1, 2]]),
    ):
        options = dict(scores=torch.full((3,), 0.9), labels=torch.zeros(3, dtype=torch.long), masks=masks)
        finder = asked('bbox_head')
        instances = InstanceData(bboxes=corners, **options)
        finder.save(SimpleNamespace(ori_shape=(40, 60), pred_instances=instances), 'x.png', '')
        boxes = finder.boxes['x.png'][1]
        assert [box['bbox'] for box in boxes] == extents and [box['area'] for box in boxes] == [400, 1, 0]


def test_each_time_is_what_its_words_say(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """By a clock on which each part takes a time of its own; the first picture, which takes longer, is not in them."""
    seconds, clock = [0.0], SimpleNamespace(monotonic=time.monotonic, perf_counter=lambda: seconds[0])
    for module in (predict, inference):
        monkeypatch.setattr(module, 'time', clock)

    def slowed(run: Any, cost: int) -> Any:
        """A method that takes so many milliseconds, and a hundred times as long at first."""
        times = iter([100 * cost])

        def slow(*args: Any) -> Any:
            seconds[0] += next(times, cost) / 1000
            return run(*args)

        return slow

    for owner, method, cost in (
        (SegDataPreProcessor, 'forward', 10), (EncoderDecoder, 'inference', 40),
        (EncoderDecoder, 'postprocess_result', 600),
    ):  # fmt: skip
        monkeypatch.setattr(owner, method, slowed(getattr(owner, method), cost))
    call(student(), 'pictures')
    out = capsys.readouterr().out
    assert 'time     40.0 ms a picture in the network (median of 2), on cpu' in out
    assert f'650.0 ms with normalisation and labels, {1000 * seconds[0] / 3:.1f} ms with reading and writing' in out


def test_a_photograph_is_drawn_as_the_student_reads_it() -> None:
    """mmcv turns pictures as EXIF says; labels, drawn picture and boxes follow."""
    image = Image.open('pictures/a/0.png')
    exif = image.getexif()
    exif[0x0112] = 6
    image.save('photo.jpg', exif=exif, quality=95)
    call(student(), 'photo.jpg')
    assert cv2.imread('out/labels/photo.png', cv2.IMREAD_UNCHANGED).shape == SIZE[::-1]
    assert cv2.imread('out/drawn/photo.jpg').shape[:2] == SIZE[::-1]


def boxes_of(out: str) -> list[str]:
    return [image['file_name'] for image in json.loads(Path(out, 'predictions.json').read_text())['images']]


def test_damaged_pictures_of_a_folder_are_named(capsys: pytest.CaptureFixture) -> None:
    for name in ('a/._0.png', 'a/broken.jpg'):
        Path('pictures', name).write_text('no picture')
    for _ in range(2):
        call(student('retinanet'), 'pictures', out='pictures')
        assert boxes_of('pictures') == ['pictures/a/0.png', 'pictures/b/1.png', 'pictures/c/2.png']
        assert 'skipped  1 that cannot be read: pictures/a/broken.jpg' in capsys.readouterr().out
    shutil.rmtree('pictures/a')
    Path('pictures/b/1.png').write_text('no picture')
    call('student.pth', 'pictures/b', code=2), 'nothing else is there'


def test_boxes_are_written_at_sigterm(monkeypatch: pytest.MonkeyPatch) -> None:
    batch_sizes: list[int] = []

    def draw(picture: np.ndarray, *_: Any) -> np.ndarray:
        batch_sizes.append(len(boxes_of('out')) if Path('out/predictions.json').exists() else 0)
        if len(batch_sizes) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return picture

    monkeypatch.setattr(predict, 'SECONDS', -1)
    monkeypatch.setattr(predict, 'draw', draw)
    call(student('retinanet'), 'pictures', code=130)
    assert batch_sizes == [1, 2] and boxes_of('out') == ['pictures/a/0.png', 'pictures/b/1.png']
    call('student.pth', 'pictures')
    assert len(boxes_of('out')) == 3, 'a second call completes'


@pytest.mark.parametrize(('load', 'labels'), [('LoadImageFromFile', 'mmseg.'), ('mmdistill_dense.LoadShapes', '')])
def test_a_test_pipeline_may_load_labels(load: str, labels: str) -> None:
    """As mmseg's name with its scope does, which mmseg itself overlooks, and as the generated shapes do."""
    call(student(), 'pictures/a', out='plain')
    config = Config.fromfile('student.py')
    pipeline = [dict(type=load), dict(type='Resize', scale=(96, 72)), dict(type=f'{labels}LoadAnnotations')]
    config.test_dataloader.dataset.dataset.pipeline = [*pipeline, dict(type='PackSegInputs')]
    config.dump('student.py')
    call('student.pth', 'pictures/a')
    assert Path('out/labels/pictures/a/0.png').read_bytes() == Path('plain/labels/pictures/a/0.png').read_bytes()


@pytest.mark.parametrize(('kind', 'size', 'reason'), [
    ('retinanet', (20000, 1), 'too thin for the student'), ('segmentor', (1, 1), 'of a single pixel'),
])  # fmt: skip
def test_a_picture_too_small_for_the_network_is_named(
    kind: str, size: tuple[int, int], reason: str, capsys: pytest.CaptureFixture
) -> None:
    """One that would be less than a pixel high where it keeps its ratio, and one of a single pixel."""
    Image.new('RGB', size).save('pictures/b/small.png')
    call(student(kind, keep_ratio=kind == 'retinanet'), 'pictures')
    assert f'skipped  1 {reason}: pictures/b/small.png\n' in capsys.readouterr().out
    assert len(list(Path('out/drawn').rglob('*.png'))) == 3


# Files of the user stay, and a failure is told


@pytest.mark.parametrize(('kind', 'name'), [
    ('segmentor', 'labels/mine.png'), ('segmentor', 'drawn/mine.png'), ('retinanet', 'predictions.json'),
])  # fmt: skip
def test_labels_of_the_user_s_are_not_replaced(kind: str, name: str, capsys: pytest.CaptureFixture) -> None:
    path = Path('data', name)
    path.parent.mkdir(parents=True)
    path.write_text('mine')
    before = sorted(Path('data').rglob('*'))
    call(student(kind), 'pictures', out='data', code=2)
    assert f'--out data: it holds {Path(name).parts[0]}, which would be replaced' in capsys.readouterr().err
    assert sorted(Path('data').rglob('*')) == before and path.read_text() == 'mine'


def test_boxes_of_earlier_calls_are_kept(capsys: pytest.CaptureFixture) -> None:
    call(student('retinanet'), 'pictures/a/0.png', 'pictures/a', 'pictures/b/../a/0.png', out='given twice')
    assert boxes_of('given twice') == ['pictures/a/0.png'] and 'or more, in 1 pictures\n' in capsys.readouterr().out
    for names in ('ab', 'c', 'a'):
        call('student.pth', *(f'pictures/{name}' for name in names), '--threshold', '0')
    assert boxes_of('out') == ['pictures/a/0.png', 'pictures/b/1.png', 'pictures/c/2.png']
    assert 'in 1 pictures; boxes in 2 earlier ones are kept' in capsys.readouterr().out
    call('student.pth', 'pictures', '--threshold', '0', out='once')
    assert Path('out/predictions.json').read_text() == Path('once/predictions.json').read_text()
    values('predictions.json', 'categories', 0, name='another')(Path('out'))
    call('student.pth', 'pictures/c', code=2)
    assert 'its predictions.json has other classes (another, class 1' in capsys.readouterr().err


def test_what_cannot_be_written_is_an_error() -> None:
    """Of a full disk; OpenCV writes empty files, and says nothing."""
    labels = SimpleNamespace(data=torch.randint(2, (1, 99, 99)))
    with full_disk(100), pytest.raises(OSError, match=r'nothing was written: .*out/labels/x\.png'):
        asked('decode_head').save(SimpleNamespace(pred_sem_seg=labels), 'x.png', 'x.png')
    assert not list(Path('out/labels').iterdir())


def test_names_of_any_bytes() -> None:
    """OpenCV ends the process at a name that is no UTF-8."""
    picture = os.fsdecode(b'pictures/a/\xff.png')
    shutil.copy('pictures/a/0.png', picture)
    call(student(), 'pictures/a')
    assert Path('out/labels', picture).read_bytes() == Path('out/labels/pictures/a/0.png').read_bytes()


def test_files_with_other_endings_are_named(capsys: pytest.CaptureFixture) -> None:
    Image.open('pictures/b/1.png').save('pictures/b/2.jfif', 'JPEG')
    for name in ('x.HEIC', 'y.heic', 'z.mp4', 'notes'):
        Path('pictures/c', name).touch()
    call(student(), 'pictures')
    assert capsys.readouterr().out.endswith('skipped 4 files that are not images: .heic, .mp4, notes\n')
    assert Image.open('out/drawn/pictures/b/2.jfif').format == 'JPEG'
