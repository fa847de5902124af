"""Random streams."""

import itertools
import pickle
import random
import time
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.runner import Runner
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, Sampler, WeightedRandomSampler

from mmdistill_dense.utils.generators import Generators, of_modules
from mmdistill_dense.utils.reproducible import (
    ReplayedBatches,
    SeededBatches,
    fork_rng,
    init_worker,
    mix,
    seed_everything,
    stream_states,
)
from mmdistill_dense.utils.runner_internals import fresh_loader


def draw():
    return random.random(), np.random.rand(), torch.rand(1).item()


def test_seeding_draws_as_torch_does():
    seeds = {mix(seed, rank, number) for seed in range(8) for rank in range(8) for number in range(64)}
    assert len(seeds) == 8 * 8 * 64 and all(0 <= seed < 2**32 for seed in seeds)
    assert mix(1, 2) == mix(1, 2) and mix(1, 23) != mix(12, 3), 'places are told apart'
    seed_everything(3)
    actual = torch.rand(3)
    torch.manual_seed(3)
    assert torch.equal(actual, torch.rand(3))


def test_a_fork_leaves_the_streams_as_they_were():
    def stream(worker, *place):
        pickle.loads(pickle.dumps(partial(init_worker, *place)))(worker)
        return draw()

    seed_everything(1)
    expected = draw()
    assert expected != draw()
    for error in (None, RuntimeError):
        seed_everything(1)
        with pytest.raises(error) if error else nullcontext(), fork_rng():
            streams = [(0, 1, 2, 3), (1, 1, 2, 3), (0, 0, 2, 3), (0, 1, 0, 3), (0, 1, 2, 0)]
            first, again = ([stream(*stream_key) for stream_key in streams] for _ in range(2))
            assert first == again and len(set(first)) == 5
            if error:
                raise error
        assert draw() == expected


class Draws(Dataset):
    """What a pipeline would draw from each stream, and the item's number."""

    def __len__(self):
        return 5

    def __getitem__(self, index):
        return torch.tensor([*draw(), index], dtype=torch.float64)


class ByNumpy(Sampler):
    """Draws from numpy's global stream at each index, without end, as mmdet's GroupMultiSourceSampler does."""

    def __init__(self, data):
        self.data = data

    def __iter__(self):
        while True:
            yield int(np.random.randint(len(self.data)))


SAMPLERS = {
    'infinite': lambda data: InfiniteSampler(data, seed=3),
    'finite': lambda data: DefaultSampler(data, seed=3),  # three batches, the last of one
    'weighted': lambda data: WeightedRandomSampler([1.0, 2, 3, 4, 5], 5),  # draws from torch's global stream
    'by numpy': ByNumpy,
}
PROCESSES = {'none': (0, False), 'workers': (2, False), 'persistent': (2, True)}


def batches(kind='infinite', processes='none', seed=1, rank=0):
    data, (workers, persistent) = Draws(), PROCESSES[processes]
    options = dict(num_workers=workers, persistent_workers=persistent)
    return SeededBatches(DataLoader(data, 2, sampler=SAMPLERS[kind](data), **options), seed, rank)


def rows(iterator, count):
    """Draws of ``count`` batches; between them the training draws too."""
    actual = []
    for _ in range(count):
        actual.append(next(iterator))
        draw()
    iterator.close()
    return torch.cat(actual)


WHOLE, SKIPPED = 8, 4  # batches: behind the first pass of a finite sampler, into the third


@pytest.fixture(scope='module')
def whole():
    """What each sampler's run gives without an interruption."""
    with fork_rng():
        return {kind: rows(batches(kind), WHOLE) for kind in SAMPLERS}


@pytest.mark.sample(4)
@pytest.mark.parametrize('kind', SAMPLERS)
@pytest.mark.parametrize('processes', ['none', 'workers', pytest.param('persistent', marks=pytest.mark.soak)])
def test_a_batch_depends_on_its_number_alone(whole, kind, processes):
    """Whoever loads it, whatever was drawn before, and whether the batches before it were loaded or skipped."""
    with fork_rng():
        assert torch.equal(rows(batches(kind, processes), WHOLE), whole[kind])
        later = batches(kind, processes)
        draw()
        later.skip_iter(SKIPPED)
        rest = rows(later, WHOLE - SKIPPED)
        assert torch.equal(rest, whole[kind][-len(rest) :]) and len(rest) < len(whole[kind])
        replayed = batches(kind, processes)
        for _ in range(SKIPPED):  # older loops have no ``skip_iter`` and take the skipped batches one by one
            next(replayed)
        assert torch.equal(rows(replayed, WHOLE - SKIPPED), rest)


@pytest.mark.parametrize('kind', SAMPLERS)
def test_no_draw_comes_twice(whole, kind):
    assert len(whole[kind][:, :3].unique()) == 3 * len(whole[kind])
    with fork_rng():
        for other in (batches(kind, seed=2), batches(kind, rank=1)):
            assert not torch.equal(rows(other, 1)[:, :3], whole[kind][:2, :3])
    order = whole['finite'][:, 3].tolist()  # each pass of a finite sampler is ordered anew
    assert sorted(order[:5]) == sorted(order[5:10]) == [0, 1, 2, 3, 4] and order[:5] != order[5:10]


def test_the_streams_of_the_training_are_left_alone():
    with fork_rng():
        batches_seen = batches('weighted')
        batches_seen.skip_iter(0)
        loader = batches_seen._indices.loader
        seed_everything(4)
        expected = draw()
        seed_everything(4)
        batches_seen.skip_iter(7)
        assert draw() == expected
    assert isinstance(loader.batch_sampler, BatchSampler) and loader.generator is None and len(loader) == 3
    data = Draws()  # mmengine's iterator would end the run with a StopIteration
    with pytest.raises(ValueError, match=r'train_dataloader gives no batch.*drop_last'):
        next(SeededBatches(DataLoader(data, 8, sampler=DefaultSampler(data), drop_last=True), 1, 0))


class Shaped(Draws):
    """Wide pictures and tall ones, in turn."""

    def get_data_info(self, index):
        return dict(width=1 + index % 2, height=2 - index % 2)


def test_samplers_that_have_drawn_begin_anew():
    """What is kept of shapes would else never come; a data set is no option, and is not copied."""
    kinds = dict(sampler=dict(type='InfiniteSampler'), batch_sampler=dict(type='mmdet.AspectRatioBatchSampler'))
    cfg = Config(dict(train_dataloader=dict(batch_size=2, num_workers=0, dataset=dict(type='Shaped'), **kinds)))
    runner = SimpleNamespace(cfg=cfg, seed=3, build_dataloader=Runner.build_dataloader)
    loader = Runner.build_dataloader(dict(cfg.train_dataloader, dataset=Shaped()), seed=5)
    first = list(itertools.islice(expected := iter(loader.batch_sampler), 6))
    again = fresh_loader(runner, loader)
    assert again.dataset is loader.dataset and list(itertools.islice(again.batch_sampler, 6)) == first
    own = DataLoader(Shaped(), 5, sampler=type('Own', (InfiniteSampler,), {})(Shaped(), seed=3))
    order = list(itertools.islice(drawn := iter(own.sampler), 4))
    assert fresh_loader(runner, own) is own and list(itertools.islice(own.sampler, 4)) == order, 'not of the config'
    del expected, drawn


# Generators that steps of a pipeline hold

OF_THE_MODULE = np.random.default_rng()


class Speckle:
    """A step that draws from a generator of each kind, in each place where one may lie."""

    of_the_class = random.Random()

    def __init__(self):
        in_closure = np.random.default_rng()
        self.generator, self.state, self.bits = np.random.default_rng(), np.random.RandomState(), np.random.Philox()
        self.of_torch, self.drawn = torch.Generator(), lambda: in_closure.random()
        self.of_torch.seed()
        self.compose = SimpleNamespace(py_random=random.Random(), transforms=[({'rng': np.random.default_rng()},)])
        self.replaced = np.random.Generator(np.random.MT19937())

    def draws(self):
        (inner,) = self.compose.transforms[0]
        actual = dict(
            generator=self.generator.random(), state=self.state.rand(), bits=self.bits.random_raw() % 2**40,
            torch=torch.rand((), generator=self.of_torch).item(), closure=self.drawn(),
            compose=self.compose.py_random.random(), inner=inner['rng'].random(), replaced=self.replaced.random(),
            of_the_class=self.of_the_class.random(), of_the_module=OF_THE_MODULE.random(),
        )  # fmt: skip
        self.replaced = np.random.Generator(np.random.MT19937())
        return actual


class Speckled(Dataset):
    def __init__(self):
        self.pipeline = SimpleNamespace(transforms=[Speckle()])

    def __len__(self):
        return 5

    def __getitem__(self, index):
        return self.pipeline.transforms[0].draws()


class SpeckledStream(IterableDataset):
    def __init__(self):
        self.step = Speckle()

    def __iter__(self):
        while True:
            yield self.step.draws()


def speckles(batches, count):
    """The draws of some batches by kind."""
    columns = [next(batches) for _ in range(count)]
    return {kind: [batch[kind].tolist() for batch in columns] for kind in columns[0]}


def seeded(workers, seed=1):
    return SeededBatches(DataLoader(Speckled(), 1, num_workers=workers), seed, 0)


@pytest.mark.parametrize('workers', [0, 2])
def test_each_kind_of_generator_is_seeded_for_a_batch(workers):
    with fork_rng():
        first, again, other = (speckles(seeded(workers, seed), 5) for seed in (1, 1, 2))
        resumed = seeded(2 - workers)  # whoever loads
        resumed.skip_iter(3)
        rest = speckles(resumed, 2)
    for kind, draws in first.items():
        assert draws == again[kind] and rest[kind] == draws[3:], kind
        assert len({str(draw) for draw in draws + other[kind]}) == 10, kind
    assert len({str(draws[0]) for draws in first.values()}) == len(first), 'each has a stream of its own'


def test_generators_are_seeded_where_batches_have_no_numbers():
    """By epochs in workers, and in data sets without indices, whose batches are replayed."""

    def epoch(number):
        seeded = partial(init_worker, 1, 0, number)
        return speckles(iter(DataLoader(Speckled(), 1, num_workers=1, worker_init_fn=seeded)), 3)

    def replayed(workers, skipped=0):
        batches = ReplayedBatches(iter, DataLoader(SpeckledStream(), 1, num_workers=workers), 1, 0)
        batches.skip_iter(skipped)
        return speckles(batches, 4 - skipped)

    with fork_rng():
        first, again, later = epoch(0), epoch(0), epoch(1)
        streams = [(replayed(workers), replayed(workers, 2)) for workers in (0, 1)]
    for kind in first.keys() - {'replaced'}:  # which is drawn from the system between two of these seeds
        assert first[kind] == again[kind] != later[kind], kind
        assert all(whole[kind][2:] == rest[kind] for whole, rest in streams), kind


def test_global_streams_are_not_seeded_as_generators():
    step = SimpleNamespace(streams=[np.random.mtrand._rand, random._inst, torch.default_generator])
    before = stream_states()
    Generators(step).seed(3)
    assert stream_states() == before


class MadeAnew:
    def __init__(self):
        self.rng = np.random.default_rng()

    def transform(self, results):
        return np.random.default_rng().random()


class OptionAsSeed(MadeAnew):
    def __init__(self, seed=None):
        self.seed = seed

    def transform(self, results):
        return np.random.default_rng(self.seed).random()


def fresh():
    return np.random.default_rng()


class MadeByAFunction:
    def transform(self, results):
        return fresh().random()


def none_as_seed():
    return np.random.default_rng(None).random()


def time_as_seed():
    return random.Random(time.time()).random()


def own_seed_of_torch():
    torch.Generator().seed()


def made_from_a_seed(seed):
    return np.random.default_rng(seed).random() + random.Random(4).random()


def seeded_afterwards(seed):
    state = np.random.RandomState()
    state.seed(seed)
    return state.rand()


class FromTheSystem:
    def __init__(self):
        self.dice = random.SystemRandom()


@pytest.mark.parametrize(('step', 'names'), [
    (MadeAnew(), ['MadeAnew.transform']), (FromTheSystem(), ['SystemRandom']), (Speckle(), ['Speckle.draws']),
    (SimpleNamespace(a=[MadeAnew()], b=FromTheSystem()), ['MadeAnew.transform', 'SystemRandom']),
    *((step, [step.__name__]) for step in (fresh, none_as_seed, time_as_seed, own_seed_of_torch)),
    *((step, [f'{type(step).__name__}.transform']) for step in (OptionAsSeed(), MadeByAFunction())),
    (OptionAsSeed(7), []), (seeded_afterwards, []), (made_from_a_seed, []),
    (np.random.RandomState(np.random.PCG64()), []),
])  # fmt: skip
def test_what_takes_no_seed_is_named(step, names):
    assert Generators([step]).unseeded() == names


def test_generators_of_modules_are_listed():
    network = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Sequential(torch.nn.ReLU()))
    network[1].dice = np.random.default_rng()
    generators = Generators([of_modules(network)])
    draws = []
    for seed in (1, 1, 2):
        generators.seed(seed)
        draws.append(network[1].dice.random())
    assert len(generators) == 1 and draws[0] == draws[1] != draws[2]
