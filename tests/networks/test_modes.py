"""Which modules of a frozen network run as in training."""

import pytest
import torch
from mmcv.cnn import ConvModule
from torch import nn

from mmdistill_dense.networks.modes import in_training, modes_to_follow, reads_mode, train_without_noise


class Scales(nn.Module):
    """Like FCOS' head: scaled in evaluation alone."""

    def forward(self, x):
        return x if self.training else 8 * x


class Helped(Scales):
    """Asks for the mode in a method of its base."""

    def forward(self, x):
        return super().forward(x) + 1


class Draws(nn.Module):
    """Random in training."""

    def forward(self, x):
        return x + torch.rand_like(x) if self.training else x


class Remembers(nn.Module):
    """Moves a buffer of its own in training, as EMANet's bases."""

    def __init__(self, rebind):
        super().__init__()
        self.register_buffer('bases', torch.zeros(1))
        self.rebind = rebind

    def forward(self, x):
        if self.training and self.rebind:
            self.bases = self.bases + 1
        elif self.training:
            self.bases.add_(1)
        return x


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
    return modes_to_follow(network, lambda: network(torch.zeros(1, 2, 4, 4)))


def test_a_module_that_computes_something_else_is_followed():
    assert followed(nn.Conv2d(2, 2, 1), Scales(), nn.Dropout(), nn.BatchNorm2d(2), Helped()) == ['1', '4']


@pytest.mark.parametrize('module', [Draws(), Remembers(True), Remembers(False), DropPath()])
def test_noise_and_memory_are_not(module):
    assert followed(Scales(), module) == ['0']


def test_a_network_that_does_not_run_so_stays_in_eval_mode():
    assert followed(Scales(), NeedsLabels()) == []


def test_nothing_is_left_of_it():
    network = nn.Sequential(Scales(), Remembers(True)).train()
    modes_to_follow(network, lambda: network(torch.zeros(1)))
    assert not any(module.training for module in network.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_modes_are_set_for_the_modules_alone():
    inner = nn.Sequential(nn.Dropout(), Scales())
    outer = nn.Sequential(inner, Scales()).eval()
    with pytest.raises(KeyError), in_training([inner]):
        assert inner.training and not inner[0].training and not inner[1].training and not outer.training
        raise KeyError
    assert not inner.training


def test_training_without_noise():
    network = nn.Sequential(nn.BatchNorm2d(2), nn.Dropout(), DropPath(), Scales()).eval()
    train_without_noise(network)
    assert [module.training for module in network] == [False, False, False, True] and network.training


def test_a_module_that_asks_for_the_mode_of_a_part_is_not_followed():
    assert not reads_mode(ConvModule(1, 1, 1, norm_cfg=dict(type='BN')))


def test_torchs_own_layers_are_not_asked():
    assert not any(map(reads_mode, (nn.BatchNorm2d(1), nn.Dropout(), nn.MultiheadAttention(2, 1), nn.Sequential())))
