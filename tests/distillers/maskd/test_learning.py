"""Learning tokens: its options, its batches, and the learner on bare tensors."""

import math

import pytest
import torch
import torch.nn.functional as F
from mmdet.datasets.samplers import AspectRatioBatchSampler
from mmengine.config import ConfigDict
from mmengine.dataset import DefaultSampler
from torch.utils.data import BatchSampler, DataLoader, Dataset

from mmdistill_dense.distillers.maskd import learning
from mmdistill_dense.losses import mask_dice, token_masks
from mmdistill_dense.networks.taps import Tap
from tests.distillers.maskd.learners import CLASSES, TOKENS, Logits, blobs, learner


def test_rates():
    sgd = dict(type='SGD', lr=0.1, momentum=0.9)
    rate = learning.LearnOptions.parse(dict(optimizer=sgd, max_iters=2000)).rate
    assert rate(700) == pytest.approx(1e-6 + (0.1 - 1e-6) * (1 + math.cos(math.pi * 700 / 2000)) / 2, rel=1e-12)
    poly = dict(optimizer=sgd, schedule='poly')
    rate = learning.LearnOptions.parse(dict(poly, max_iters=10000)).rate
    assert rate(0) == 0.1 and rate(10000) == 0 and rate(2500) == pytest.approx(0.1 * 0.75**0.9)
    other = learning.LearnOptions.parse(dict(poly, max_iters=100, power=2.0, eta_min=0.02)).rate
    assert other(50) == pytest.approx(0.02 + 0.08 / 4)


@pytest.mark.parametrize(('option', 'kind', 'words'), [
    (dict(max_iter=5), TypeError, r"learn has no option 'max_iter'.*Did you mean 'max_iters'"),
    (dict(max_iters=0), ValueError, r'learn\.max_iters must be a whole number >= 1, got 0'),
    (dict(power=1.0), ValueError, r"learn\.power has an effect only with learn.schedule='poly'"),
    (dict(optimizer=dict(type='Adam')), ValueError, r'learn\.optimizer must be dict'),
    (dict(optimizer=dict(type='Adm', lr=1.0)), ValueError, r'learn\.optimizer=.*cannot be built: .*Adm'),
    (dict(optimizer=dict(type='Adam', lr=1.0, decay=2)), ValueError, r'learn\.optimizer=.*decay.*cannot be built'),
    (dict(clip_grad=dict(norm=3)), ValueError, r'learn\.clip_grad'),
    (dict(dice_weight='a'), ValueError, r"learn\.dice_weight must be a finite number >= 0, got 'a'"),
    (5, TypeError, 'learn must be a dict of .*, got 5'),
])  # fmt: skip
def test_refused(option, kind, words):
    with pytest.raises(kind, match=words):
        learning.LearnOptions.parse(option)


def test_options_of_a_config_file_become_plain():
    """They are kept in token files, which are read without mmengine's classes."""
    options = ConfigDict(optimizer=dict(type='Adam', lr=0.1, betas=[0.9, 0.99]), clip_grad=dict(max_norm=35))
    learn = learning.LearnOptions.parse(options)
    assert type(learn.optimizer) is dict and type(learn.clip_grad) is dict and type(learn.optimizer['betas']) is list
    assert learn.optimizer == options.optimizer.to_dict() and learn.clip_grad == dict(max_norm=35)


class Numbered(Dataset):
    """Items that say which they are, every third one upright."""

    def __len__(self):
        return 10

    def get_data_info(self, index):
        return dict(width=2, height=1 + 2 * (index % 3 == 0))

    def __getitem__(self, index):
        return index


def take(count, seed=1, start=0, group=AspectRatioBatchSampler, workers=0):
    sampler = group(DefaultSampler(Numbered(), shuffle=False), batch_size=2, drop_last=False)
    loader = DataLoader(sampler.sampler.dataset, batch_sampler=sampler, num_workers=workers, collate_fn=list)
    with learning.learning_batches(loader, seed, start) as batches:
        return [next(batches) for _ in range(count)]


def test_batches_are_grouped_as_the_loader_does():
    """What else they promise is asked in tests/utils/test_random_streams.py."""
    whole = take(12)
    assert all(len(batch) == 2 and len({index % 3 == 0 for index in batch}) == 1 for batch in whole)
    assert take(5, start=7, workers=2) == whole[7:] and take(12, seed=2) != whole
    plain = take(5, group=BatchSampler)
    assert {index for batch in plain for index in batch} == set(range(10)), 'every picture once in a round'


class Paired(BatchSampler):
    """A grouping that needs more to be made."""

    def __init__(self, sampler, batch_size, drop_last, *, partners):
        super().__init__(sampler, batch_size, drop_last)


def test_a_grouping_that_cannot_be_made_again_is_named():
    loader = DataLoader(Numbered(), batch_sampler=Paired(DefaultSampler(Numbered()), 2, False, partners=1))
    words = r'train_dataloader\.batch_sampler.*Paired.*partners.*tokens='
    with pytest.raises(ValueError, match=words), learning.learning_batches(loader, 1, 0):
        pass


def test_a_step_is_that_of_the_optimizer_on_the_sum():
    logits, labels = blobs(torch.Generator().manual_seed(0))
    options = dict(optimizer=dict(type='SGD', lr=0.1), dice_weight=0.3)
    plain, clipped = learner(**options), learner(**options, clip_grad=dict(max_norm=1e-3))
    token = plain.detached()['0.mask_token'].requires_grad_()
    masks = token_masks(token, logits)
    total = F.cross_entropy(logits * masks.sum(1, keepdim=True), labels) + 0.3 * mask_dice(masks)
    (gradient,) = torch.autograd.grad(total, token)
    for each in (plain, clipped):
        each.step(logits, labels)
    torch.testing.assert_close(plain.detached()['0.mask_token'], token.detach() - 0.1 * gradient)
    length = (clipped.detached()['0.mask_token'] - token.detach()).norm().item()
    assert gradient.norm() > 2e-3 and length == pytest.approx(1e-4, rel=1e-3)


class TwoLevels(Logits):
    """Two maps, the second one of which can be poisoned."""

    poison = False

    def loss(self, inputs, data_samples):
        first = self.head(inputs)
        second = self.head(inputs * (float('nan') if self.poison else 1))
        return {'loss_first': first.mean(), 'loss_second': second.mean()}


def two_levels():
    shapes = {f'{level}.mask_token': torch.Size((TOKENS, CLASSES)) for level in range(2)}
    return learner(TwoLevels(), shapes=shapes, taps=[learning.GatedTap(Tap.parse('head'), 0, 2)])


def test_a_loss_that_is_not_finite_skips_the_step():
    two = two_levels()
    data = blobs(torch.Generator())
    two.step(*data)
    before = two.detached()
    state = two.optimizer.state_dict()['state'][0]['step'].item()
    two.task.teacher.network.poison = True
    for _ in range(learning.PATIENCE - 1):
        two.step(*data)
    assert all(torch.equal(before[name], value) for name, value in two.detached().items())
    assert two.iteration == learning.PATIENCE and two.optimizer.state_dict()['state'][0]['step'].item() == state
    two.task.teacher.network.poison = False
    resumed = two_levels()
    resumed.load_state_dict({**two.state_dict(), 'values': two.detached()})
    assert (resumed.iteration, resumed.skipped) == (learning.PATIENCE, learning.PATIENCE - 1)
    two.step(*data)
    assert two.skipped == 0 and all(value.isfinite().all() for value in two.detached().values())
    two.task.teacher.network.poison = True
    with pytest.raises(RuntimeError, match=r'10 iterations in a row, the last is 20 \(task loss not finite, level 1\)'):
        for _ in range(learning.PATIENCE):
            two.step(*data)


def test_initial_values():
    shapes = {'0.mask_token': (6, 256), '0.prob.0.weight': (256, 256, 3, 3), '0.prob.0.bias': (256,)}
    shapes = {name: torch.Size(shape) for name, shape in shapes.items()}
    values, other = (learning.initial_tokens(shapes, seed) for seed in (3, 4))
    assert values['0.mask_token'].std().item() == pytest.approx(0.01, rel=0.1)
    assert values['0.prob.0.weight'].std().item() == pytest.approx(0.0295, rel=0.02)
    assert not values['0.prob.0.bias'].any() and not torch.equal(*(x['0.mask_token'] for x in (values, other)))
