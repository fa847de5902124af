"""The teacher of a project, asked as functions: its options, its classes, and a foundation model's head."""

from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmseg.datasets import CityscapesDataset

from mmdistill_dense.apps.project import sides, teachers
from mmdistill_dense.apps.project.label_images import SegData
from mmdistill_dense.apps.project.sides import Side, read_side
from mmdistill_dense.apps.project.teachers import (
    check_foundation,
    check_options,
    check_teacher,
    head_side,
    named_by_teacher,
    names_in,
    serves_as_it_is,
)  # fmt: skip
from mmdistill_dense.foundation.vit import Rotary, ViT, architecture
from mmdistill_dense.foundation.vit_file import named
from tests import toys

RETINANET = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'
MODEL = {'model': 'dinov2_vits14', 'checkpoint': 'dino.pth'}


def test_classes_of_a_teacher_that_is_trained_here_are_refused() -> None:
    given: dict[str, Any] = dict(
        unlabelled=None, teacher_checkpoint=None, train_teacher=False, teacher_classes=['auto']
    )
    with pytest.raises(ValueError, match='--teacher-classes: a teacher trained here has your classes'):
        check_options(Namespace(**given), None)
    check_options(Namespace(**given | dict(teacher_checkpoint='auto')), None)
    with pytest.raises(ValueError, match='--train-teacher: it does not go with'):
        check_options(Namespace(**given | dict(teacher_checkpoint='auto', train_teacher=True)), None)


@pytest.mark.parametrize(('names', 'values', 'named'), [
    ('ab', (), True), ('abc', (), True), ('a', (), False), ('ab', (0, 38), True), ('abc', (0, 38), False),
])  # fmt: skip
def test_classes_that_nobody_named_take_names_that_fit(
    names: str, values: tuple[int, ...], named: bool, tmp_path: Path
) -> None:
    """A class that is in no label image may stand at the end; fewer names than values do not fit."""
    classes = tuple(f'class_{value}' for value in values or (0, 1))
    data = SegData(tmp_path, {}, ('.png',), '.png', classes, values, (4, 4))
    file = tmp_path / 'teacher.pth'
    torch.save({'state_dict': {}, 'meta': {'dataset_meta': {'classes': list(names)}}}, file)
    found = named_by_teacher(data, str(file))
    assert found.classes == (tuple(names) if named else classes)
    assert (f'classes named as in {file}, in the order of the label values: a, b' in str(found.notes)) is named
    own = replace(data, classes=('sky', 'road'))
    assert named_by_teacher(own, str(file)) is own


def test_a_file_tells_how_many_classes_a_teacher_has(tmp_path: Path) -> None:
    file = tmp_path / 'teacher.pth'
    for names in ('classes', 'CLASSES'):
        torch.save({'state_dict': {}, 'meta': {'dataset_meta': {names: list('abcd')}}}, file)
        assert len(names_in(str(file))) == 4
    torch.save({'state_dict': {}, 'meta': {}}, file)
    assert not [one for one in (str(file), str(tmp_path / 'no.pth'), 'auto', None) if names_in(one)]


def test_a_teacher_without_its_auxiliary_head_is_taken(tmp_path: Path) -> None:
    """No distiller reads it, so its file may lack it, or hold one of other classes; the other parts must be whole."""
    option, file = toys.seg_net('pspnet'), str(tmp_path / 'teacher.pth')
    side = Side('--teacher', option.pop('cfg'), Config(), {}, 'seg', option)
    state = toys.build_plain(side.option).state_dict()
    kept = {name: value for name, value in state.items() if not name.startswith('auxiliary_head')}
    assert len(kept) < len(state)
    names = [*map(str, range(toys.NUM_CLASSES))]
    for given in (kept, {**kept, 'auxiliary_head.conv_seg.weight': torch.zeros(19, 8, 1, 1)}):
        torch.save({'state_dict': given}, file)
        check_teacher(side, file, names)
    kept.pop('decode_head.conv_seg.bias')
    torch.save({'state_dict': kept}, file)
    with pytest.raises(ValueError, match='1 missing'):
        check_teacher(side, file, names)


def test_published_weights_that_share_a_background_alone_do_not_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    """An open background holds every class that the other side does not have."""
    monkeypatch.setattr(sides, 'reachable', lambda host: True)
    voc = read_side('mmseg::deeplabv3/deeplabv3_r101-d8_4xb4-20k_voc12aug-512x512.py', '--teacher')
    assert serves_as_it_is(voc, ['background', 'leaf', 'stem'], []) == (None, None, '')
    taken, _, note = serves_as_it_is(voc, ['background', 'car', 'stem'], [])
    assert not taken and 'know 1 of your 3 classes (car)' in note
    city = read_side('mmseg::pspnet/pspnet_r50-d8_4xb2-80k_cityscapes-512x1024.py', '--teacher')
    assert serves_as_it_is(city, ['road', 'car'], ['kd'])[:2] == ('auto', 'auto')
    assert not serves_as_it_is(city, ['road', 'car'], ['dist'])[0] and not serves_as_it_is(city, ['car'], [])[0]
    assert serves_as_it_is(city, CityscapesDataset.METAINFO['classes'], ['dist'])[:2] == ('auto', None)
    coco = read_side('mmdet::retinanet/retinanet_r101_fpn_1x_coco.py', '--teacher')
    for names, methods in ((['person', 'car'], ['frs', 'pkd']), (['red'], [])):
        assert serves_as_it_is(coco, names, methods) == (None, None, '')
    assert 'know 1 of your 2 classes (person)' in serves_as_it_is(coco, ['person', 'forklift'], [])[2]
    monkeypatch.setattr(sides, 'reachable', lambda host: False)
    assert serves_as_it_is(coco, ['person', 'car'], []) == (None, None, ''), 'they cannot be fetched'


@pytest.mark.parametrize(('head', 'model', 'task', 'told'), [
    ('fpn', True, 'seg', 'These do: linear, fcn, upernet'),
    ('linear', True, 'det', 'These do: fpn, sfp'),
    ('linear', False, 'seg', 'is a network with its own head'),
])  # fmt: skip
def test_a_head_of_another_task_is_refused(head: str, model: bool, task: str, told: str) -> None:
    with pytest.raises(ValueError, match=f'--head {head}: .*{told}'):
        head_side(head, 'x', MODEL if model else None, Side('--student', 'x', Config(), {}, task))


def test_a_detector_gets_the_pyramid_of_its_student() -> None:
    student = read_side(RETINANET, '--student')
    fixed = head_side('fpn', 'x', MODEL, student).fixed
    assert fixed['backbone']['stride'] == 16 and tuple(fixed['backbone']['out_blocks']) == (-1,) * 4
    assert (fixed['neck'][1]['start_level'], fixed['neck'][1]['num_outs']) == (1, 5), 'from stride 8 on'
    with pytest.raises(ValueError, match='has stride 8: write --head fpn'):
        head_side('sfp', 'x', MODEL, student)
    student.model = {**student.model, 'bbox_head': {'anchor_generator': {'strides': [8, 24]}}}
    with pytest.raises(ValueError, match=r'has no pyramid from stride 4 or 8 \(8, 24\)'):
        head_side('fpn', 'x', MODEL, student)


def test_pairs_of_one_class_are_written_out_and_a_coarse_class_stays_as_given() -> None:
    coarse = {'car': ['vehicle'], 'bus': ['vehicle'], 'road': ['road']}
    for option, names, own, pairs in (
        ('auto', ['car', 'road'], ['road', 'car'], {'car': ['car'], 'road': ['road']}),
        (coarse, ['car', 'bus', 'road'], ['vehicle', 'road'], coarse),
    ):
        found, told = teachers._paired(option, names, own, '--teacher-checkpoint x.pth')
        assert found == pairs and told


def test_the_periods_of_a_rotary_model_are_compared(tmp_path: Path) -> None:
    with torch.device('meta'):
        network = ViT(architecture('dinov3_vits16'))
    network.rope = Rotary(network.shape.dim // network.shape.heads)
    state = named(network, 'original')
    mask = torch.tensor([1.0, 0, 1]).repeat_interleave(network.shape.dim)  # keys have no bias
    zero = torch.zeros(())
    state = {name: mask if 'bias_mask' in name else zero.expand(entry.shape) for name, entry in state.items()}
    option = {'model': 'dinov3_vits16', 'checkpoint': str(tmp_path / 'dino.pth')}
    torch.save({**state, 'rope_embed.periods': 2 * network.rope.periods}, tmp_path / 'dino.pth')
    with pytest.raises(ValueError, match='rope_embed.periods are of other rotary positions'):
        check_foundation('dinov3_vits16:dino.pth', option)
