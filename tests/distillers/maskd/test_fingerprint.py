"""Fingerprints: what changes them and what must not."""

import copy
import json

import pytest
import torch

from mmdistill_dense.distillers.maskd.token_files import (
    as_number,
    digest,
    from_number,
    learning_fingerprint,
    teacher_fingerprint,
)
from mmdistill_dense.networks.taps import Tap
from tests import toys

NECK = [Tap.parse('neck')]


@pytest.fixture(scope='module')
def teacher():
    return toys.teacher_of(
        toys.distilled(
            'mmdet',
            student=toys.det_net(),
            teacher=toys.det_teacher(),
            distillers=dict(m=dict(type='MaskedMimic', student_tap='neck')),
        )
    )


@pytest.fixture
def changed(teacher):
    """The teacher after adding 1 to the first element of a tensor."""

    def change(name):
        other = copy.copy(teacher)
        other.network = copy.deepcopy(teacher.network)
        with torch.no_grad():
            other.network.state_dict()[name].view(-1)[0] += 1
        return other

    return change


def whole(teacher, taps=NECK, settings=None, dataset=None):
    return learning_fingerprint(teacher, taps, settings, dataset)


@pytest.mark.parametrize(
    ('name', 'maps_change'),
    [('backbone.conv1.weight', True), ('backbone.bn1.running_mean', True), ('neck.fpn_convs.0.conv.bias', True),
     ('bbox_head.retina_cls.weight', False)],
)  # fmt: skip
def test_weights_before_the_tap_make_the_teacher_and_all_weights_the_learning(teacher, changed, name, maps_change):
    other = changed(name)
    assert (teacher_fingerprint(other, NECK) != teacher_fingerprint(teacher, NECK)) == maps_change
    assert whole(other) != whole(teacher)


def test_heads_in_front_of_the_last_tap_count(teacher, changed):
    other = changed('bbox_head.retina_cls.weight')
    for taps in ([Tap.parse('bbox_head.retina_cls')], [*NECK, Tap.parse('bbox_head')], [Tap.parse('')]):
        assert teacher_fingerprint(other, taps) != teacher_fingerprint(teacher, taps)


def test_taps_settings_data_and_normalisation_count(teacher):
    first = whole(teacher, settings=dict(T=6), dataset=dict(type='A'))
    assert first == whole(teacher, settings=dict(T=6), dataset=dict(type='A'))
    others = [
        whole(teacher, [Tap.parse('neck[:3]')], dict(T=6), dict(type='A')),
        whole(teacher, NECK, dict(T=8), dict(type='A')),
        whole(teacher, NECK, dict(T=6), dict(type='B')),
    ]
    brighter = copy.copy(teacher)
    brighter.network = teacher.network
    brighter.config = copy.deepcopy(teacher.config)
    brighter.config.model.data_preprocessor.mean = [0.0, 0.0, 0.0]
    others.append(whole(brighter, NECK, dict(T=6), dict(type='A')))
    assert len({first, *others}) == 5
    assert teacher_fingerprint(brighter, NECK) != teacher_fingerprint(teacher, NECK)


def test_where_pretrained_weights_lie_does_not_count(teacher):
    other = copy.copy(teacher)
    other.network = teacher.network
    other.config = copy.deepcopy(teacher.config)
    other.config.model.backbone.init_cfg = dict(type='Pretrained', checkpoint='/my/folder/resnet18.pth')
    assert whole(other) == whole(teacher)


def test_the_first_pass_does_not_count():
    """It multiplies the norms into the convolutions; the teacher is that of its file all the same."""
    teacher = toys.teacher_of(toys.distilled(student=toys.seg_net('fcn'), teacher=toys.seg_teacher('fcn')))
    taps = [Tap.parse('backbone[3]')]
    before = whole(teacher, taps), teacher_fingerprint(teacher, taps)
    names = list(teacher.network.state_dict())
    teacher(torch.randn(1, 3, 64, 64))
    assert list(teacher.network.state_dict()) != names, 'else nothing is shown'
    assert (whole(teacher, taps), teacher_fingerprint(teacher, taps)) == before


def test_a_machines_folders_do_not_count():
    def dataset(root):
        inner = dict(type='X', data_root=root, ann_file=f'{root}/annotations/train.json', img='images/')
        return dict(type='RepeatDataset', times=2, dataset=inner, table=f'/disk3{root}/table.txt')

    assert digest(dataset('/data/coco')) == digest(dataset('/mnt/disk2/coco')) == digest(dataset('data/coco'))
    assert digest(dataset('/data/coco')) != digest(dict(dataset('/data/coco'), times=3))


def test_classes_count_by_name_and_never_by_address():
    class Pipeline:
        pass

    assert digest([Pipeline, Pipeline()]) == digest([Pipeline, Pipeline()])
    assert digest([Pipeline]) != digest([dict])


def test_a_fingerprint_is_no_promise_of_a_hash():
    """Names of published weights end in their SHA-256, and are checked; ours must not look like them."""
    assert all(digest(number)[0] == 't' and len(digest(number)) == 16 for number in range(20))


def test_numbers():
    for fingerprint in (digest('a'), 't000000000000002'):
        assert from_number(as_number(fingerprint)) == fingerprint
        assert torch.tensor(as_number(fingerprint), dtype=torch.int64).item() == as_number(fingerprint)
    assert as_number(None) == 1 and from_number(1) is None and from_number(0) is None


def test_json_of_a_real_data_set_config():
    config = toys.run_config('x', toys.seg_net('fcn')).train_dataloader.dataset
    assert digest(config) == digest(json.loads(json.dumps(config)))
