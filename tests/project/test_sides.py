"""What own data change in the config of a network, asked as functions of its model."""

import urllib.error
import urllib.request
from email.message import Message
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config

from mmdistill_dense.apps.project.sides import (
    Side,
    adapt,
    det_size,
    joined_overrides,
    overrides,
    predicts_masks,
    reachable,
    seg_size,
    without_weights,
)


def test_counts_of_the_data_s_classes_change_and_others_stay() -> None:
    counted = {'decode_head': {'num_classes': 19, 'out_channels': 19, 'channels': 19}, 'neck': {'out_channels': 19}}
    assert overrides(counted, 3, '--student') == {'decode_head': {'num_classes': 3, 'out_channels': 3}}
    weights = {'one_each': {'class_weight': [0.5] * 5}, 'with_none': {'class_weight': [0.5] * 5 + [0.1]}}
    model = {
        'type': 'EncoderDecoder',
        'backbone': {'num_classes': 5},
        'decode_head': {'num_classes': 5, 'loss_decode': [weights['one_each'], weights['with_none']]},
        'auxiliary_head': {'num_classes': 7},
    }
    losses = {'0': {'class_weight': None}, '1': {'class_weight': [1.0] * 3 + [0.1]}}
    assert overrides(model, 3, '--student') == {'decode_head': {'num_classes': 3, 'loss_decode': losses}}


def test_a_network_of_panoptic_labels_is_refused() -> None:
    model = {'type': 'MaskFormer', 'panoptic_head': {'num_things_classes': 80, 'num_classes': 80}}
    assert overrides(model, 3, '--teacher')
    with pytest.raises(ValueError, match='--teacher: MaskFormer is trained on panoptic labels'):
        overrides({**model, 'panoptic_fusion_head': {'num_stuff_classes': 53}}, 3, '--teacher')


def test_sizes_of_another_data_set_go() -> None:
    assert det_size({'data_preprocessor': {'batch_augments': [{'type': 'BatchSyncRandomResize'}]}}) == {
        'data_preprocessor': {'batch_augments': None}
    }
    assert det_size({'data_preprocessor': {}}) == {}
    large = seg_size({'data_preprocessor': {'size_divisor': 32}}, (96, 60), (3000, 2000))
    assert large == {
        'data_preprocessor': {'size': (96, 60), 'size_divisor': None},
        'test_cfg': {'_delete_': True, 'mode': 'slide', 'crop_size': (96, 60), 'stride': (64, 40)},
    }
    assert 'test_cfg' not in seg_size({'test_cfg': {'mode': 'whole'}}, (96, 60), (96, 60))


@pytest.mark.parametrize('stages', [0, 1])
def test_random_weights_are_not_frozen(stages: int) -> None:
    frozen = {'frozen_stages': stages, 'norm_eval': True, 'norm_cfg': {'type': 'BN', 'requires_grad': False}}
    thawed = {'frozen_stages': -1, 'norm_eval': False, 'norm_cfg': {'requires_grad': True}}
    assert without_weights({'backbone': frozen}) == {'pretrained': False, 'backbone': thawed}
    assert without_weights({'backbone': {'frozen_stages': -1}}) == {'pretrained': False}
    for given, left in ((0, {}), (2, {'backbone': {'frozen_stages': 0}})):  # EfficientNet refuses -1
        backbone = {'type': 'EfficientNet', 'frozen_stages': given}
        assert without_weights({'backbone': backbone}) == {'pretrained': False, **left}


@pytest.mark.parametrize('random', [True, False])
def test_files_that_are_there_are_left_out_for_random_weights_alone(random: bool, tmp_path: Path) -> None:
    (tmp_path / 'start.pth').touch()
    model = {'backbone': {'init_cfg': {'type': 'Pretrained', 'checkpoint': str(tmp_path / 'start.pth')}}}
    side = Side('--student', 'own.py', Config(), model, 'seg')
    adapt(side, None, {}, True, random)
    assert side.changes == ({'pretrained': False} if random else {})
    assert side.notes[0].startswith('STARTS FROM RANDOM WEIGHTS: --random-weights' if random else 'starts from ')


@pytest.mark.parametrize('key', ['--student', '--teacher'])
def test_what_a_config_starts_from_and_what_is_not_there_is_told(key: str) -> None:
    model = {'backbone': {'init_cfg': {'type': 'Pretrained', 'checkpoint': 'lost.pth'}}}
    side = Side(key, 'own.py', Config({'load_from': 'whole.pth'}), model, 'seg')
    adapt(side, None, {}, True, False)
    left_out, random = side.notes
    assert "load_from='whole.pth' of the config is left out" in left_out
    assert ('--teacher-checkpoint whole.pth' in left_out) == (key == '--teacher')
    assert random.startswith('STARTS FROM RANDOM WEIGHTS: no such file lost.pth (looked in ')


def test_overrides_of_one_part_are_joined() -> None:
    joined = joined_overrides({'neck': {'in_channels': 1}}, {'neck': {'num_outs': 2}}, {'neck': {'num_outs': 3}})
    assert joined == {'neck': {'in_channels': 1, 'num_outs': 3}}


@pytest.mark.parametrize(('model', 'masks'), [
    ({'type': 'mmdet.CondInst'}, True),
    ({'type': 'RTMDet', 'bbox_head': {'type': 'RTMDetInsSepBNHead'}}, True),
    ({'type': 'MaskRCNN', 'roi_head': {'mask_head': {'type': 'FCNMaskHead'}}}, True),
    ({'type': 'FCOS', 'bbox_head': {'type': 'FCOSHead'}}, False),
])  # fmt: skip
def test_networks_of_masks_are_known(model: dict[str, Any], masks: bool) -> None:
    assert predicts_masks(model) is masks


def test_a_host_that_refuses_an_address_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(request: urllib.request.Request, timeout: float) -> None:
        if 'there' in request.full_url:
            raise urllib.error.HTTPError(request.full_url, 403, 'forbidden', Message(), None)
        raise urllib.error.URLError('no such host')

    monkeypatch.setattr(urllib.request, 'urlopen', refused)
    assert reachable('https://there.invalid/') and not reachable('https://lost.invalid/')
