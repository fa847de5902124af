"""What ``mmdistill taps`` lists, and that it can be tapped."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from mmengine.registry import init_default_scope

from mmdistill_dense.__main__ import main
from mmdistill_dense.apps.inspect.module_tree import ModuleNode, list_taps
from mmdistill_dense.config.resolve import load_model
from mmdistill_dense.networks.recording import Recorder, run_parts
from mmdistill_dense.networks.taps import Tap
from mmdistill_dense.networks.trace import TeacherOption
from tests import toys
from tests.foundation.files import tiny


def nodes(root: ModuleNode) -> Iterator[ModuleNode]:
    yield root
    for child in root.inside:
        yield from nodes(child)


def taps_of(place: ModuleNode) -> dict[str, tuple[int, ...]]:
    """Every marked tap with the shape that is listed for its first tensor."""
    if place.indexed and len(place.shapes) > 1:
        return {f'{place.path}[{index}]': shape for index, shape in enumerate(place.shapes)}
    return {place.path: place.shapes[0]}


@pytest.mark.parametrize(
    'option', [toys.seg_net(), toys.det_net(), toys.det_net('faster_rcnn')], ids=['seg', 'retinanet', 'faster_rcnn']
)
def test_marked_places_are_taps_of_the_listed_shape(option: dict) -> None:
    config = load_model(option, 'model.student')
    init_default_scope(config.scope)
    root = list_taps(TeacherOption('model', '', config), (64, 64))
    good_nodes = [node for node in nodes(root) if node.good]
    shapes_of_taps = {tap: shape for node in good_nodes for tap, shape in taps_of(node).items()}
    assert {'backbone[3]', 'backbone.layer4'} <= set(shapes_of_taps)
    network, taps = toys.build_plain(option), [Tap.parse(text) for text in shapes_of_taps]
    recorder = Recorder(network.eval() or network, taps, 'student_tap')
    with torch.no_grad(), recorder.recording() as tensors:
        run_parts(network, taps, torch.zeros(1, 3, 64, 64), rois=True)
    recorder.check_complete()
    assert {name: tuple(tensor[0].shape[1:]) for name, tensor in tensors.items()} == shapes_of_taps


def test_the_command_lists_the_taps_of_both_networks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / 'config.py'
    toys.run_config(tmp_path, toys.model_config()).dump(config)

    def told(*words: str) -> str:
        assert main(['taps', str(config), *words]) == 0
        return capsys.readouterr().out

    both = told('--below', 'backbone')
    assert 'student' in both and 'teacher' in both and 'decode_head' not in both
    tree, _, pairs = told('--student').partition("★ student_tap='auto'")
    assert '★ [1] [2] [3]' in tree and any('bottleneck' in line and line.endswith('★') for line in tree.splitlines())
    assert 'decode_head.bottleneck (16x8x8, stride 8) -> decode_head.bottleneck (32x8x8, stride 8)' in pairs
    student_list = told('--auto')
    assert 'ResNetV1c' not in student_list and pairs in student_list and 'backbone[0] … backbone[3]' in told()
    assert main(['taps', str(config), '--below', 'nick']) == 2
    assert 'backbone' in capsys.readouterr().err, 'what there is'


def test_taps_of_a_foundation_teacher_at_its_own_scale(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / 'config.py'
    teacher = dict(type='mmdistill_dense.FoundationTeacher', model=tiny('dinov2'), scale=2.0, allow_random=True)
    match = dict(d=dict(type='PKD', student_tap='backbone[3]', teacher_tap='map'))
    toys.run_config(tmp_path, toys.model_config(teacher=teacher, distillers=match)).dump(config)
    assert main(['taps', str(config), '--teacher', '--size', '64', '96']) == 0
    lines = capsys.readouterr().out.splitlines()
    marked = [line for line in lines if '◀' in line]
    assert [line.split('◀')[1].strip() for line in marked] == ['maps.0', 'maps.1', 'map   ★']
    assert all('48x9x14 ' in line for line in marked), 'cells of 14 pixels in pictures of twice the side'
    assert all(line.count('127x48') == 1 for line in lines if 'Block' in line), 'each block ran once'
    assert main(['taps', str(config), '--auto', '--size', '64', '96']) == 0
    assert 'backbone[3] (64x8x12, stride 8) -> map (48x9x14, stride 8)' in capsys.readouterr().out
