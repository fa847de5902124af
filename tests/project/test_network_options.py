"""The two networks of a project, asked as functions: what own data change in config and schedule; the teacher."""

import urllib.request
from dataclasses import replace
from email.message import Message
from pathlib import Path
from unittest.mock import Mock
from urllib.error import HTTPError, URLError

import pytest
import torch
from mmengine.config import Config
from mmseg.datasets import CityscapesDataset

from mmdistill_dense.apps.project import network_options, teachers
from mmdistill_dense.apps.project.label_images import SegData
from mmdistill_dense.apps.project.network_options import UserNetwork, class_overrides, read_network
from mmdistill_dense.apps.project.picture_files import usual_size
from mmdistill_dense.apps.project.teachers import reuse_teacher
from mmdistill_dense.apps.project.training_plan import decide_loading
from tests import toys

FASTSCNN = 'mmseg::fastscnn/fast_scnn_8xb4-160k_cityscapes-512x1024.py'
KNET = 'mmseg::knet/knet-s3_r50-d8_deeplabv3_8xb2-adamw-80k_ade20k-512x512.py'
RTMDET = 'mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py'
RETINANET = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'
LSJ = 'mmdet::retinanet/retinanet_r18_fpn_8xb8-amp-lsj-200e_coco.py'
FCOS = 'mmdet::fcos/fcos_r18_fpn_gn-head-center-normbbox-centeronreg-giou_8xb8-amp-lsj-200e_coco.py'


def test_counts_of_classes_change() -> None:
    counted = {'decode_head': {'num_classes': 19, 'out_channels': 19, 'channels': 19}, 'neck': {'out_channels': 19}}
    changed = {'decode_head.num_classes': 3, 'decode_head.out_channels': 3}
    assert class_overrides(counted, 3, '--student') == changed
    weights = [[0.5] * 5, [0.5] * 5 + [0.1], [1.0] * 8 + [0.2], [0.3, 0.4, 0.5]]  # the last two of other data
    model = {
        'type': 'EncoderDecoder',
        'backbone': {'num_classes': 5},
        'decode_head': {'num_classes': 5, 'loss_decode': [{'class_weight': each} for each in weights]},
        'auxiliary_head': {'num_classes': 7},
    }
    losses = {
        f'decode_head.loss_decode.{place}.class_weight': last and [1.0] * 3 + [last]
        for place, last in enumerate((None, 0.1, 0.2, None))
    }
    assert class_overrides(model, 3, '--student') == {'decode_head.num_classes': 3, **losses}
    inside = class_overrides(read_network(KNET, '--teacher').model, 3, '--teacher')
    heads = ('decode_head.kernel_generate_head', *(f'decode_head.kernel_update_head.{n}' for n in '012'))
    assert inside == dict.fromkeys((f'{head}.num_classes' for head in (*heads, 'auxiliary_head')), 3)


def test_sizes_of_another_data_set_go() -> None:
    for augments, left in (([{'type': 'BatchSyncRandomResize'}], {'data_preprocessor.batch_augments': None}), ([], {})):
        side = UserNetwork('--student', 'x', Config(), {'data_preprocessor': {'batch_augments': augments}}, 'det')
        assert network_options.sizes(side, (96, 60), (96, 60)) == left
    large = network_options.seg_size({'data_preprocessor': {'size_divisor': 32}}, (96, 60), (3000, 2000))
    assert large == {
        'data_preprocessor.size': (96, 60),
        'data_preprocessor.size_divisor': None,
        'test_cfg': {'_delete_': True, 'mode': 'slide', 'crop_size': (96, 60), 'stride': (64, 40)},
    }
    assert 'test_cfg' not in network_options.seg_size({'test_cfg': {'mode': 'whole'}}, (96, 60), (96, 60))
    assert network_options.seg_size({'test_cfg': {'mode': 'slide'}}, (96, 60), (9, 61))['test_cfg'] == large['test_cfg']


def test_random_weights_are_not_frozen() -> None:
    for stages in (0, 1):
        frozen = {'frozen_stages': stages, 'norm_eval': True, 'norm_cfg': {'type': 'BN', 'requires_grad': False}}
        thawed = {'frozen_stages': -1, 'norm_eval': False, 'norm_cfg.requires_grad': True}
        changes = {'pretrained': False, **{f'backbone.{name}': value for name, value in thawed.items()}}
        assert network_options.without_weights({'backbone': frozen}) == changes
    assert network_options.without_weights({'backbone': {'frozen_stages': -1}}) == {'pretrained': False}
    for words, left in ((0, {}), (2, {'backbone.frozen_stages': 0})):  # EfficientNet refuses -1
        backbone = {'type': 'EfficientNet', 'frozen_stages': words}
        assert network_options.without_weights({'backbone': backbone}) == {'pretrained': False, **left}


@pytest.mark.parametrize('key', ['--student', '--teacher'])
def test_missing_first_weights_are_told(key: str) -> None:
    model = {'backbone': {'init_cfg': {'type': 'Pretrained', 'checkpoint': 'lost.pth'}}}
    side = UserNetwork(key, 'own.py', Config({'load_from': 'whole.pth'}), model, 'seg')
    network_options.adapt(side, None, {}, True, False)
    left_out, random = side.notes
    assert left_out == "WARNING: load_from='whole.pth' of the config cannot be had, and is left out"
    assert random.startswith('STARTS FROM RANDOM WEIGHTS: no such file lost.pth (looked in ')


@pytest.mark.parametrize(('name', 'reached', 'start'), [
    (RETINANET, True, 'https://download.openmmlab.com/mmdetection/v2.0/retinanet/retinanet_r18_fpn_1x_coco/'),
    (RETINANET, False, None),
    (LSJ, True, None),  # no weights are published
])  # fmt: skip
def test_a_training_starts_from_published_weights(
    name: str, reached: bool, start: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network_options, 'reachable', lambda host: reached)
    side = read_network(name, '--student')
    network_options.adapt(side, 3, {}, trained=True, random=False)
    assert (side.start or '').startswith(start or '') and bool(side.start) is bool(start)
    assert side.option['bbox_head'] == {'num_classes': 3}
    assert (side.changes.get('pretrained') is False) is (bool(start) or not reached), 'no second file is fetched'
    assert ('frozen_stages' in str(side.changes)) is not reached, 'frozen parts stay, unless they are random'
    for option in (dict(trained=True, random=True), dict(trained=False, random=False)):
        other = read_network(name, '--student')
        network_options.adapt(other, 3, {}, **option)
        assert other.start is None


def test_a_network_of_panoptic_labels_is_refused() -> None:
    model = {'type': 'MaskFormer', 'panoptic_head': {'num_things_classes': 80, 'num_classes': 80}}
    assert class_overrides(model, 3, '--teacher')
    with pytest.raises(ValueError, match='--teacher: MaskFormer is trained on panoptic labels'):
        class_overrides({**model, 'panoptic_fusion_head': {'num_stuff_classes': 53}}, 3, '--teacher')


@pytest.mark.parametrize(('error', 'is_there'), [
    (HTTPError('address', 403, 'forbidden', Message(), None), True), (URLError('no such host'), False),
])  # fmt: skip
def test_a_host_that_refuses_an_address_is_there(
    error: Exception, is_there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(urllib.request, 'urlopen', Mock(side_effect=error))
    assert network_options.reachable(f'https://{is_there}.invalid/') is is_there


# Sizes of pictures, length and rate


@pytest.mark.parametrize(('name', 'size', 'keep'), [
    ('rtmdet/rtmdet_tiny_8xb32-300e_coco', (640, 640), True),
    ('yolox/yolox_tiny_8xb8-300e_coco', (416, 416), True),
    ('yolo/yolov3_d53_8xb8-ms-416-273e_coco', (416, 416), True),
    ('ssd/ssd300_coco', (300, 300), False),
    (FCOS[7:-3], (800, 1333), True),
    ('detr/detr_r18_8xb2-500e_coco', (800, 1333), True),
])  # fmt: skip
def test_pictures_are_as_large_as_those_the_config_tests_on(name: str, size: tuple[int, int], keep: bool) -> None:
    """Its training may resize to twice as much and then crop, or to several sizes, the smallest first."""
    loading = decide_loading(read_network(f'mmdet::{name}.py', '--student'), (1080, 1920), 100, None, None)
    assert loading.size == size and loading.keep_ratio is keep


@pytest.mark.parametrize(('name', 'usual', 'size', 'tested', 'message'), [
    (RTMDET, (1080, 1920), None, (360, 640), 'pictures of 360x640, in place of 1080x1920'),
    (RETINANET, (48, 64), None, (48, 64), 'pictures of 48x64, as they are'),
    (FASTSCNN, (360, 480), (128, 128), (96, 128), 'crops of 128x128, tested at 96x128'),
    (FASTSCNN, (360, 480), None, (360, 480), 'tested at their own size, 360x480'),
])  # fmt: skip
def test_the_size_of_a_test_is_the_real_one(
    name: str, usual: tuple[int, int], size: tuple[int, int] | None, tested: tuple[int, int], message: str
) -> None:
    loading = decide_loading(read_network(name, '--student'), usual, 10, 2, size)
    assert loading.tested == tested and message in loading.note
    assert usual_size([(360, 480), (300, 400), (480, 360)]) in [(360, 480), (480, 360)], 'that of a picture'


# The teacher: its options and its classes


@pytest.mark.parametrize(('names', 'values', 'has_names'), [
    ('ab', (), True), ('abc', (), True), ('a', (), False), ('ab', (0, 38), True), ('abc', (0, 38), False),
])  # fmt: skip
def test_classes_that_nobody_named_take_names_that_fit(
    names: str, values: tuple[int, ...], has_names: bool, tmp_path: Path
) -> None:
    """A class that is in no label image may stand at the end; fewer names than values do not fit."""
    classes = tuple(f'class_{value}' for value in values or (0, 1))
    data = SegData(tmp_path, {}, ('.png',), '.png', classes, values, (4, 4))
    file = tmp_path / 'teacher.pth'
    torch.save({'state_dict': {}, 'meta': {'dataset_meta': {'classes': list(names)}}}, file)
    actual = teachers.named_by_teacher(data, str(file))
    assert actual.classes == (tuple(names) if has_names else classes)
    assert (f'classes named as in {file}, in the order of the label values: a, b' in str(actual.notes)) is has_names
    assert not [name for name in (str(tmp_path / 'no.pth'), 'auto', None) if teachers.names_in(name)]
    own_data = replace(data, classes=('sky', 'road'))
    assert teachers.named_by_teacher(own_data, str(file)) is own_data


def test_a_teacher_without_its_auxiliary_head_is_taken(tmp_path: Path) -> None:
    """No distiller reads it, so its file may lack it, or hold one of other classes; the other parts must be whole."""
    option, file = toys.seg_net('pspnet'), str(tmp_path / 'teacher.pth')
    side = UserNetwork('--teacher', option.pop('cfg'), Config(), {}, 'seg', option)
    state = toys.build_plain(side.option).state_dict()
    without_auxiliary = {name: value for name, value in state.items() if not name.startswith('auxiliary_head')}
    assert len(without_auxiliary) < len(state)
    names = [*map(str, range(toys.NUM_CLASSES))]
    for words in (without_auxiliary, {**without_auxiliary, 'auxiliary_head.conv_seg.weight': torch.zeros(19, 8, 1, 1)}):
        torch.save({'state_dict': words}, file)
        teachers.check_teacher(side, file, names)
    without_auxiliary.pop('decode_head.conv_seg.bias')
    torch.save({'state_dict': without_auxiliary}, file)
    with pytest.raises(ValueError, match='1 missing'):
        teachers.check_teacher(side, file, names)


def test_published_weights_of_other_classes_do_not_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    """An open background holds every class that the other side does not have."""
    monkeypatch.setattr(network_options, 'reachable', lambda host: True)
    voc = read_network('mmseg::deeplabv3/deeplabv3_r101-d8_4xb4-20k_voc12aug-512x512.py', '--teacher')
    assert reuse_teacher(voc, ['background', 'leaf', 'stem'], []) == (None, None, '')
    taken, _, note = reuse_teacher(voc, ['background', 'car', 'stem'], [])
    assert not taken and 'know 1 of your 3 classes (car)' in note
    city = read_network('mmseg::pspnet/pspnet_r50-d8_4xb2-80k_cityscapes-512x1024.py', '--teacher')
    assert reuse_teacher(city, ['road', 'car'], ['kd'])[:2] == ('auto', 'auto')
    assert not reuse_teacher(city, ['road', 'car'], ['dist'])[0] and not reuse_teacher(city, ['car'], [])[0]
    assert reuse_teacher(city, CityscapesDataset.METAINFO['classes'], ['dist'])[:2] == ('auto', None)
    coco = read_network('mmdet::retinanet/retinanet_r101_fpn_1x_coco.py', '--teacher')
    for names, methods in ((['person', 'car'], ['frs', 'pkd']), (['red'], [])):
        assert reuse_teacher(coco, names, methods) == (None, None, '')
    assert 'know 1 of your 2 classes (person)' in reuse_teacher(coco, ['person', 'forklift'], [])[2]
    monkeypatch.setattr(network_options, 'reachable', lambda host: False)
    assert reuse_teacher(coco, ['person', 'car'], []) == (None, None, ''), 'they cannot be fetched'
