"""Networks of mmdet predict however they are built, also where mmdet's heads lack what they are asked for."""

from __future__ import annotations

from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.structures import DetDataSample
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmdistill_dense.apps.export.write_student import load_student
from mmdistill_dense.apps.inspect.step_cost import build_student
from mmdistill_dense.config.resolve import load_model
from mmdistill_dense.engine.distill_hook import DistillerState
from mmdistill_dense.networks.building import complete_heads
from mmdistill_dense.utils.process import quiet
from tests import toys
from tests.zoo.every_network import _plain as plain_network
from tests.zoo.every_network import distinct

SSD = 'mmdet::ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py'


def trained(option: dict[str, Any], folder: Any) -> nn.Module:
    network = MODELS.build(option)
    return DistillerState().before_run(SimpleNamespace(model=network)) or network


def exported(option: dict[str, Any], folder: Any) -> nn.Module:
    torch.save(dict(state_dict=MODELS.build(option).state_dict()), folder / 'c.pth')
    return load_student(Config(dict(default_scope='mmdet', model=option)), folder / 'c.pth')[1]


WAYS = dict(
    student=lambda option, folder: toys.build(dict(type='mmdistill_dense.DistillModel', student=option), scope='mmdet'),
    check=lambda option, folder: build_student(option),
    trained=trained,
    exported=exported,
)


@pytest.mark.parametrize('way', WAYS)
def test_ssd(way: str, tmp_path: Any) -> None:
    init_default_scope('mmdet')
    option = load_model(dict(cfg=SSD, pretrained=False), 'model').model
    network, size = WAYS[way](option, tmp_path).eval(), (320, 320)
    sample = DetDataSample(metainfo=dict(img_shape=size, ori_shape=size, scale_factor=(1, 1), batch_input_shape=size))
    with torch.no_grad():
        assert 'pred_instances' in network.predict(torch.zeros(1, 3, *size), [sample])[0]


@pytest.mark.zoo
def test_every_dense_head_of_the_zoo_has_what_its_prediction_asks_for() -> None:
    seen = {}
    for name in distinct(architectures=True):
        if name.startswith('mmdet::'):
            with quiet(), suppress(Exception):  # what cannot be built without us either
                network = plain_network(ConfigDict(cfg=name, pretrained=False))
                complete_heads(network)
                seen |= {type(head).__name__: head for head in network.modules() if isinstance(head, BaseDenseHead)}
    assert {'SSDHead', 'RetinaHead', 'RPNHead'} <= set(seen) and len(seen) > 20
    by_base = [
        one for one in seen.values() if type(one)._predict_by_feat_single is BaseDenseHead._predict_by_feat_single
    ]
    lacking = {type(one).__name__ for one in by_base if not hasattr(one, 'loss_cls')}
    assert lacking <= {'YOLOXHead', 'CascadeRPNHead'}, 'these predict by functions of their own'
