"""The pairs: recipes that fit their networks, and what a student takes over from its teacher."""

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope

from mmdistill_dense.apps.recipes import compose
from mmdistill_dense.config.resolve import is_single_teacher, load_model
from mmdistill_dense.guards.findings import RunFacts
from mmdistill_dense.guards.run_rules import optimizer
from mmdistill_dense.networks.building import build_network
from mmdistill_dense.networks.inputs import make_renormaliser
from mmdistill_dense.networks.teacher import _below
from tests.every_config import leaf, student, teacher


@pytest.mark.soak
def test_recipes_fit_the_networks_of_their_pair() -> None:
    """What a pair takes over from another may be an option for an auxiliary head that its own teacher has not."""
    for path in compose.recipes():
        config = Config.fromfile(path)
        assert not list(optimizer(RunFacts(config))), path
        option = config.model.teacher
        teachers = [option] if is_single_teacher(option) else option.values()
        for option in (config.model.student, *teachers):
            whole = load_model({key: value for key, value in option.items() if key != 'checkpoint'}, 'network').model
            parts = {key: part for key, part in whole.items() if key.endswith(('backbone', 'neck', 'head'))}
            assert not [key for key, part in parts.items() if isinstance(part, dict) and 'type' not in part], path


# What is inherited

QUERIES = {  # with parameters, in millions, that the student takes over
    'maskd:deformable_detr_r50_to_r18_coco': (293, 12.07),
    'pkd:dino_r50_to_r18_coco': (297, 18.687),
}
INHERITED = {  # with the number of tensors
    'maskd:faster_rcnn_r101_to_r50_coco': 30, 'maskd:faster_rcnn_cascade_mask_x101_to_r50_coco': 16,
    'maskd:retinanet_r101_to_r50_coco': 36, 'maskd:retinanet_x101_to_r50_coco': 36,
    'maskd:retinanet_r101_to_mobilenetv2_coco': 20, 'maskd:fcos_r101_to_r50_coco': 51,
    'maskd:reppoints_x101_to_r50_coco': 53, **{pair: count for pair, (count, _) in QUERIES.items()},
}  # fmt: skip


@pytest.mark.sample(3)
@pytest.mark.parametrize(('pair', 'count'), INHERITED.items())
def test_what_is_inherited_has_the_same_shapes(pair: str, count: int) -> None:
    """Of two networks that see the same pixels."""
    config = leaf(f'{pair.replace(":", "/")}_inherit')
    assert make_renormaliser(student(config).data_preprocessor, teacher(config).data_preprocessor) is None
    student_shapes, teacher_shapes = shapes(config.model.student), shapes(config.model.teacher)
    taken = 0
    for target, source in config.model.inherit:
        student_part, words = _below(student_shapes, target), _below(teacher_shapes, source)
        biases = {name for name in student_part.keys() - words.keys() if name.endswith('conv.bias')}
        assert {name: student_part[name] for name in student_part.keys() - biases} == words
        assert len(biases) == (8 if 'fcos' in pair and target == 'bbox_head' else 0)
        taken += len(words)
    assert taken == count


def shapes(option: dict) -> dict[str, torch.Size]:
    network = {key: value for key, value in option.items() if key != 'checkpoint'}
    with torch.device('meta'), DefaultScope.overwrite_default_scope('mmdet'):
        built = build_network(load_model(network, 'model'), pretrained=False)
    return {name: value.shape for name, value in built.state_dict().items()}
