"""The second stream of a run: pictures without labels, read beside the labelled ones."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from mmengine.dataset import pseudo_collate
from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.utils.data import DataLoader, Sampler

from mmdistill_dense.distillers.schedule import in_iterations
from mmdistill_dense.engine.unlabelled_pictures import Pictures, open_pictures
from mmdistill_dense.model.distill_model import Distilled
from mmdistill_dense.model.distillation import distillers_of
from mmdistill_dense.model.unlabelled import KEY, Unlabelled, check_one_picture
from mmdistill_dense.utils.distributed import unwrap
from mmdistill_dense.utils.random_streams import fork_rng, mix
from mmdistill_dense.utils.reproducible import SeededBatches
from mmdistill_dense.utils.runner_internals import built_loop

_TAG = 2  # of the seeds of this stream
FEW = 4  # steps in which all pictures have been seen


class PassSampler(Sampler[int]):
    """Endless indices, all pictures in each pass in a new order.

    The order of a pass depends only on the seed and the number of the pass. So a process knows its next index from the
    number of those before, and there is no state to save.

    Args:
        count: Number of pictures.
        seed: Of the order, the same in all processes.
        rank: Of this process; the processes take the positions in turn.
        world: Number of processes.
        start: How many indices this process has taken before.
    """

    def __init__(self, count: int, seed: int, rank: int = 0, world: int = 1, start: int = 0) -> None:
        self.count, self.seed, self.rank, self.world, self.start = count, seed, rank, world, start

    def __iter__(self) -> Iterator[int]:
        number, order = -1, torch.empty(0)
        for taken in itertools.count(self.start):
            passes, place = divmod(taken * self.world + self.rank, self.count)
            if passes != number:
                draw = torch.Generator().manual_seed(mix(self.seed, passes, _TAG))
                number, order = passes, torch.randperm(self.count, generator=draw)
            yield int(order[place])


class UnlabelledBatches:
    """The batches of a run by iteration; random numbers of the run are not touched.

    Args:
        loader: The labelled loader, of whose workers these are a copy.
        pictures: The pictures.
        second: Holds the options.
        seed: Seed of the run.
    """

    def __init__(self, loader: DataLoader, pictures: Pictures, second: Unlabelled, seed: int) -> None:
        self.dataset, self.seed = pictures.dataset, seed
        batch_sampler: Any = loader.batch_sampler
        self.count = second.option.count(batch_sampler.batch_size)
        workers = second.option.workers
        self._options: dict[str, Any] = {
            'num_workers': loader.num_workers if workers is None else workers,
            'pin_memory': loader.pin_memory,
        }
        if self._options['num_workers']:
            self._options['multiprocessing_context'] = loader.multiprocessing_context
        self._batches: SeededBatches | None = None

    def at(self, iteration: int) -> Any:
        """Return the batch of an iteration; quick if it follows the one before."""
        with fork_rng():
            if self._batches is None or self._batches.position != iteration:
                self.close()
                self._batches = self._from(iteration)
            return next(self._batches)

    def close(self) -> None:
        """End the workers."""
        if self._batches is not None:
            self._batches.close()
        self._batches = None

    def _from(self, iteration: int) -> SeededBatches:
        rank, world = get_rank(), get_world_size()
        sampler = PassSampler(len(self.dataset), self.seed, rank, world, iteration * self.count)
        loader: DataLoader = DataLoader(
            self.dataset, self.count, sampler=sampler, collate_fn=pseudo_collate, **self._options
        )
        return SeededBatches(loader, mix(self.seed, _TAG), rank, start=iteration)


class UnlabelledStream(Hook):
    """Gives each step its pictures without labels; has no effect on a run without ``model.unlabelled``."""

    def __init__(self) -> None:
        self._second: Unlabelled | None = None
        self._pictures: Pictures | None = None
        self._batches: UnlabelledBatches | None = None

    def before_run(self, runner: Runner) -> None:
        """Open the pictures before anything is loaded."""
        model = unwrap(runner.model)
        trains = built_loop(runner) is not None and isinstance(model, Distilled)
        self._second = model.distillation.unlabelled if trains and isinstance(model, Distilled) else None
        if self._second is not None:
            self._pictures = open_pictures(self._second.option, runner.cfg, runner.train_dataloader.dataset)
            self._second.files = {**self._pictures.identity(), 'ratio': self._second.option.ratio}

    def before_train(self, runner: Runner) -> None:
        """Set up the loader, and tell about it."""
        if self._second is not None and self._pictures is not None:
            model: Any = unwrap(runner.model)
            seed = model.distillation.state.seed  # the same in all processes
            self._batches = UnlabelledBatches(runner.train_dataloader, self._pictures, self._second, seed)
            if self._batches.count == 1:
                takers = [distillers_of(model)[name] for name in self._second.takers]
                taps = [tap.path for one in takers for tap in one.recorded_taps]
                check_one_picture(model, taps, whole=self._second.option.pseudo is not None)
            self._tell(runner, self._pictures, self._batches.count)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Draw the pictures of this step."""
        self.draw(runner, runner.iter)

    def draw(self, runner: Runner, iteration: int, ahead: int = 0) -> None:
        """Draw pictures for the model's next step, if a distiller compares them.

        Args:
            runner: The runner.
            iteration: Of that step.
            ahead: Take the pictures of as many steps later, for a measurement that stays at one iteration.
        """
        if self._second is None or self._batches is None:
            return
        distillers = distillers_of(unwrap(runner.model))
        begun = iteration >= in_iterations(self._second.option.start, runner.max_iters)
        asked = self._second.option.pseudo is not None
        used = begun and (asked or any(distillers[name].is_active() for name in self._second.takers))
        batch = self._batches.at(iteration + ahead) if used else None
        if batch is not None and 'inputs' not in batch:
            raise ValueError(f'{KEY}.pipeline gives no inputs ({", ".join(batch)}): let its last step pack them.')
        self._second.batch = batch

    def after_train(self, runner: Runner) -> None:
        """End the workers."""
        if self._batches is not None and self._second is not None:
            self._batches.close()
            self._batches, self._second.batch = None, None

    def _tell(self, runner: Runner, pictures: Pictures, count: int) -> None:
        found, step = len(pictures.dataset), count * get_world_size()
        out = f', {pictures.labelled} labelled ones taken out' if pictures.labelled else ''
        left = f'; steps of the pipeline left out: {", ".join(pictures.left_out)}' if pictures.left_out else ''
        assert self._second is not None
        runner.logger.info(
            f'{KEY}: {found} pictures{out}; {step} of them a step, each once in {found / step:.4g} steps; they teach '
            f'{", ".join(self._second.takers)}{left}'
        )
        if found < FEW * step:
            runner.logger.warning(
                f'{KEY}: {found} pictures are few for {step} a step, each is seen again within {FEW} steps: lower '
                f'{KEY}.ratio, or add pictures.'
            )
