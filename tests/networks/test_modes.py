"""Which modules of a frozen network run as in training."""

from importlib import import_module

import pytest
import torch
from torch import nn

from mmdistill_dense.networks.modes import _CHANGES, attributes, run_as_trained, train_without_noise


class Scales(nn.Module):
    """Like FCOS' head: scaled in evaluation alone."""

    def forward(self, x):
        return x if self.training else 8 * x


class EMAModule(nn.Module):
    """Moves a buffer of its own in training, as EMANet's."""

    def __init__(self):
        super().__init__()
        self.register_buffer('bases', torch.zeros(1))

    def forward(self, x):
        if self.training:
            self.bases.add_(1)
        return x


class OfItsKind(EMAModule):
    """Inherits that."""


class NeedsLabels(nn.Module):
    def forward(self, x):
        if self.training:
            raise TypeError('labels')
        return x


class DropPath(nn.Module):
    """Noise by name, though nothing is random here."""

    def forward(self, x):
        return x if self.training else 0 * x


def followed(*modules):
    network = nn.Sequential(*modules)
    run_as_trained(network, lambda: network(torch.zeros(1, 2, 4, 4)))
    return run_as_trained(network, lambda: [one.training for one in network])[0]


def test_what_computes_something_else_in_training_is_followed_but_for_noise_and_memory():
    found = followed(nn.Conv2d(2, 2, 1), Scales(), nn.Dropout(), nn.BatchNorm2d(2), nn.ReLU())
    assert found == [False, True, False, False, False]
    for module in (EMAModule(), OfItsKind(), DropPath()):
        assert followed(Scales(), module) == [True, False]


def test_the_listed_classes_exist():
    places = (
        'mmseg.models.decode_heads.ema_head', 'mmseg.models.decode_heads.ham_head',
        'mmdet.models.dense_heads.clr_head.utils.roi_gather', 'mmdet.models.utils.vlfuse_helper',
    )  # fmt: skip
    assert all(hasattr(import_module(place), name) for place, name in zip(places, _CHANGES, strict=True))


def test_the_result_is_that_of_training_or_else_of_eval_mode_and_nothing_is_left():
    network = nn.Sequential(Scales(), nn.Dropout())
    found, modes = run_as_trained(network, lambda: network(torch.ones(1)))
    assert found == 1 and modes
    network = nn.Sequential(Scales(), NeedsLabels())
    assert run_as_trained(network, lambda: network(torch.ones(1))) == (8, False)
    network = nn.Sequential(Scales(), EMAModule()).train()
    run_as_trained(network, lambda: network(torch.zeros(1)))
    assert not any(module.training for module in network.modules()) and network[1].bases == 0


def test_modes_are_set_for_the_modules_alone():
    inner = nn.Sequential(nn.Dropout(), Scales())
    outer = nn.Sequential(inner, Scales()).eval()
    with pytest.raises(KeyError), attributes(inner, training=True):
        assert inner.training and not inner[0].training and not inner[1].training and not outer.training
        raise KeyError
    assert not inner.training


def test_training_without_noise():
    network = nn.Sequential(nn.BatchNorm2d(2), nn.Dropout(), DropPath(), Scales()).eval()
    train_without_noise(network)
    assert [module.training for module in network] == [False, False, False, True] and network.training
