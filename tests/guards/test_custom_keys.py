"""Options of the optimizer that are meant for the student, and reach a distiller."""

import logging
from types import SimpleNamespace

import pytest
from mmengine.config import Config
from mmengine.optim import DefaultOptimWrapperConstructor
from torch import nn

from mmdistill_dense.guards.config import check_custom_keys
from tests import toys

HEAD = dict(lr_mult=10.0)


class Projector(nn.Module):
    """A distiller whose part is called like one of the student's."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(2, 2)


class Network(nn.Module):
    """A student with distillers of these names."""

    def __init__(self, **distillers):
        super().__init__()
        self.backbone, self.decode_head = nn.Linear(2, 2), nn.Linear(2, 2)
        self.distillers = nn.ModuleDict(distillers)


def look(model, keys):
    config = Config(dict(optim_wrapper=dict(paramwise_cfg=dict(custom_keys=keys))))
    check_custom_keys(SimpleNamespace(cfg=config, logger=logging.getLogger('keys')), model)


@pytest.mark.parametrize(
    ('name', 'key'), [('neck_head_x', 'head'), ('decode_head_kd', 'decode_head'), ('head', 'head')]
)
def test_a_name_that_a_students_key_hits_is_refused(name, key):
    with pytest.raises(ValueError) as error:
        look(Network(**{name: nn.Linear(2, 2)}), {key: HEAD})
    message = str(error.value)
    assert f"model.distillers.{name}: its name contains '{key}'" in message and "{'lr_mult': 10.0}" in message
    assert f"custom_keys['distillers.{name}']" in message


@pytest.mark.parametrize(('name', 'keys'), [
    ('kd', dict(head=HEAD)),
    ('neck_head_x', {'head': HEAD, 'distillers.neck_head_x': dict(lr_mult=1.0)}),
    ('neck_head_x', {'head': HEAD, 'distillers': HEAD}),
    ('afdcd', dict(afdcd=HEAD)),
    ('neck_head_x', {}),
], ids=['another name', 'said', 'said of all', 'for the distiller', 'no keys'])  # fmt: skip
def test_what_is_meant_is_left_alone(name, keys, caplog):
    look(Network(**{name: nn.Linear(2, 2)}), keys)
    assert not caplog.text


def test_the_message_says_what_mmengine_does():
    """And what it proposes works."""
    model = Network(head_kd=nn.Linear(2, 2))

    def rates(keys):
        options = dict(optimizer=dict(type='SGD', lr=1.0))
        optimizer = DefaultOptimWrapperConstructor(options, dict(custom_keys=keys))(model).optimizer
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        return {names[id(group['params'][0])]: group['lr'] for group in optimizer.param_groups}

    assert rates(dict(head=HEAD))['distillers.head_kd.weight'] == 10.0
    assert rates({'head': HEAD, 'distillers.head_kd': dict(lr_mult=1)})['distillers.head_kd.weight'] == 1.0


def test_parts_that_are_called_like_the_students_are_told(caplog):
    look(Network(pcd=Projector()), dict(head=HEAD))
    (told,) = caplog.messages
    assert "custom_keys['head']={'lr_mult': 10.0} also applies to parts of distillers" in told
    assert 'distillers.pcd.head.weight' in told and "custom_keys['distillers']" in told


def test_a_run_is_refused_at_its_start(tmp_path):
    model = toys.model_config(
        toys.seg_net('fcn'),
        toys.seg_teacher('fcn'),
        dict(head_mimic=dict(type='MaskedMimic', student_tap='backbone[3]')),
    )
    with pytest.raises(ValueError, match=r"model\.distillers\.head_mimic: its name contains 'head'"):
        toys.train(tmp_path, model, iters=1, optim_wrapper=dict(paramwise_cfg=dict(custom_keys=dict(head=HEAD))))


def test_a_key_with_the_prefix_of_a_config_is_refused():
    """It is in no name, so it would have no effect without a word."""
    for key in ('model.student', 'x'):
        look(Network(kd=nn.Linear(2, 2)), {key: HEAD})
    for key, right in (('student.backbone', 'backbone'), ('model.distillers.kd', 'distillers.kd')):
        with pytest.raises(ValueError, match=f"custom_keys\\['{key}'\\] is in no name of a parameter: write '{right}'"):
            look(Network(kd=nn.Linear(2, 2)), {key: HEAD})
