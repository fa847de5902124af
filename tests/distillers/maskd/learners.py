"""A learner of tokens on class maps, and an interruption of its steps."""

import types

import torch
import torch.nn.functional as F
from mmengine.model import BaseModel
from torch import nn

from mmdistill_dense.distillers.maskd import learning
from mmdistill_dense.networks.taps import Tap

CLASSES, TOKENS, SIZE = 19, 8, (16, 24)


class Logits(BaseModel):
    """A segmenter whose input is its logits."""

    def __init__(self):
        super().__init__()
        self.head = nn.Identity()

    def forward(self, inputs, data_samples=None, mode='tensor'):
        return self.head(inputs)

    def loss(self, inputs, data_samples):
        return {'loss_ce': F.cross_entropy(self.head(inputs), data_samples)}


def blobs(generator, count=4):
    """Labels in patches, and logits ``5 one-hot + 1.5 noise``."""
    coarse = torch.randint(CLASSES, (count, 1, 4, 6), generator=generator).float()
    labels = F.interpolate(coarse, SIZE)[:, 0].long()
    noise = torch.randn(count, CLASSES, *SIZE, generator=generator)
    return 5 * F.one_hot(labels, CLASSES).permute(0, 3, 1, 2).float() + 1.5 * noise, labels


def learner(network=None, seed=0, shapes=None, taps=None, **options):
    network = network or Logits()
    shapes = shapes or {'0.mask_token': torch.Size((TOKENS, CLASSES))}
    taps = taps or [learning.GatedTap(Tap.parse('head'), 0, 1)]
    teacher = types.SimpleNamespace(network=network)
    task = learning.TokenTask('maskd', teacher, taps, shapes, learning.LearnOptions.parse(options))
    return learning.TokenLearner(task, seed, torch.device('cpu'))


class Interrupt(Exception):
    pass


def stop_at(patched, iteration):
    """Interrupt the learning before one of its steps."""
    step = learning.TokenLearner.step

    def interrupted(self, *args):
        if self.iteration == iteration:
            raise Interrupt
        return step(self, *args)

    patched.setattr(learning.TokenLearner, 'step', interrupted)
