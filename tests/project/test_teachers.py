"""The teacher of a project, asked as functions: its options, its classes, and a foundation model's head."""

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config

from mmdistill_dense.apps.project import teachers
from mmdistill_dense.apps.project.label_images import SegData
from mmdistill_dense.apps.project.sides import Side, read_side
from mmdistill_dense.apps.project.teachers import (
    check_foundation,
    check_options,
    head_side,
    named_by_teacher,
    names_in,
    serves_as_it_is,
)
from mmdistill_dense.foundation.vit import Rotary, ViT, architecture
from mmdistill_dense.foundation.vit_file import named

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


@pytest.mark.parametrize(
    ('names', 'values', 'named'),
    [('ab', (), True), ('abc', (), True), ('a', (), False), ('ab', (0, 38), True), ('abc', (0, 38), False)],
)
def test_classes_that_nobody_named_take_names_that_fit(
    names: str, values: tuple[int, ...], named: bool, tmp_path: Path
) -> None:
    classes = tuple(f'class_{value}' for value in values or (0, 1))
    data = SegData(tmp_path, {}, ('.png',), '.png', classes, values, (4, 4))
    file = tmp_path / 'teacher.pth'
    torch.save({'state_dict': {}, 'meta': {'dataset_meta': {'classes': list(names)}}}, file)
    assert named_by_teacher(data, str(file)).classes == (tuple(names) if named else classes)
    own = replace(data, classes=('sky', 'road'))
    assert named_by_teacher(own, str(file)) is own


@pytest.mark.parametrize('names', ['classes', 'CLASSES'])
def test_a_file_tells_how_many_classes_a_teacher_has(names: str, tmp_path: Path) -> None:
    file = tmp_path / 'teacher.pth'
    torch.save({'state_dict': {}, 'meta': {'dataset_meta': {names: list('abcd')}}}, file)
    assert len(names_in(str(file))) == 4
    torch.save({'state_dict': {}, 'meta': {}}, file)
    assert not [one for one in (str(file), str(tmp_path / 'no.pth'), 'auto', None) if names_in(one)]


@pytest.mark.parametrize(('theirs', 'methods', 'found'), [
    (['a', 'b'], (), ('auto', None)),
    (['b', 'a', 'c'], (), ('auto', 'auto')),
    (['b', 'a', 'c'], ('dist',), (None, None)),
    (['a', 'c'], (), (None, None)),
    (['c'], (), (None, None)),
])  # fmt: skip
def test_published_weights_of_all_classes_serve(
    theirs: Sequence[str], methods: Sequence[str], found: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teachers, '_classes_of', lambda teacher: theirs)
    monkeypatch.setattr(teachers, 'published_weights', lambda name: 'https://host/weights.pth')
    monkeypatch.setattr(teachers, 'fetchable', lambda address, folder: True)
    teacher = Side('--teacher', 'mmseg::x/y.py', None, {}, 'seg')  # type: ignore[arg-type]
    *options, note = serves_as_it_is(teacher, ['a', 'b'], methods)
    assert tuple(options) == found
    assert ('know 1 of your 2 classes (a)' in note) == (theirs == ['a', 'c'])
    monkeypatch.setattr(teachers, '_classes_of', lambda teacher: ['background', 'tree'])
    assert serves_as_it_is(teacher, ['background', 'leaf'], ()) == (None, None, ''), 'only what is no class is known'


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


@pytest.mark.parametrize('option', ['auto', {'car': ['vehicle'], 'bus': ['vehicle'], 'road': ['road']}])
def test_pairs_of_one_class_are_written_out_and_a_coarse_class_stays_as_given(option: Any) -> None:
    names, own = (
        (['car', 'road'], ['road', 'car']) if option == 'auto' else (['car', 'bus', 'road'], ['vehicle', 'road'])
    )
    found, told = teachers._paired(option, names, own, '--teacher-checkpoint x.pth')
    assert found == ({'car': ['car'], 'road': ['road']} if option == 'auto' else option)
    assert told


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
