"""The second stream of a run: pictures without labels, read beside the labelled ones."""

import copy
import hashlib
import itertools
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.dataset import Compose, pseudo_collate
from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import DATASETS
from mmengine.runner import Runner
from torch.utils.data import DataLoader, Sampler

from mmdistill_dense.distillers.schedule import in_iterations
from mmdistill_dense.model.distill_model import distillers_of
from mmdistill_dense.registry import HOOKS
from mmdistill_dense.unlabelled.pictures import (
    UnlabeledImages,
    picture_paths,
    same_pictures,
    training_steps,
    try_steps,
    without_labels,
)
from mmdistill_dense.unlabelled.step import KEY, Unlabelled, UnlabelledOption, check_one_picture, unlabelled_of
from mmdistill_dense.utils.distributed import unwrap
from mmdistill_dense.utils.reproducible import SeededBatches, fork_rng, mix
from mmdistill_dense.utils.runner_internals import built_loop
from mmdistill_dense.utils.validate import some

_LABEL = 'seg_map_path'


@dataclass(frozen=True)
class Pictures:
    """Pictures without labels."""

    dataset: UnlabeledImages  # with their pipeline
    labelled: int  # how many labelled pictures were taken out
    left_out: Sequence[str]  # types of the steps of the labelled pipeline that do not work without labels

    def identity(self) -> dict[str, Any]:
        """Return what must be the same when a run is resumed: the number of pictures, and a hash of their names."""
        paths = picture_paths(self.dataset)
        absolute = not self.dataset.data_root and all(map(os.path.isabs, paths))
        root = os.path.commonpath(map(os.path.dirname, paths)) if absolute else self.dataset.data_root or '.'
        names = [os.path.relpath(path, root) for path in paths]
        return {'pictures': len(names), 'names': hashlib.sha256('\n'.join(names).encode()).hexdigest()}


def open_pictures(option: UnlabelledOption, config: Mapping[str, Any], labelled: Any) -> Pictures:
    """List the pictures, take the labelled ones out, refuse those of validation and test, and make the pipeline.

    A file that is listed twice, also by a link, counts once.
    """
    if not config.get('train_dataloader'):
        problem = f'{KEY} needs the config of the run, whose loaders name the pictures of validation and test'
        raise ValueError(f'{problem}: build the runner with Runner.from_cfg(config).')
    dataset = UnlabeledImages(**option.pictures, pipeline=[{'type': 'LoadImageFromFile'}])
    files = [dataset.get_data_info(number)['img_path'] for number in range(len(dataset))]
    indices: dict[str, int] = {}
    for number, path in enumerate(files):
        indices.setdefault(os.path.realpath(path), number)
    paths = [files[number] for number in indices.values()]
    matches = same_pictures(paths, _comparable(picture_paths(labelled), 'train_dataloader'))
    selection = [number for number in indices.values() if files[number] not in matches]
    if not selection:
        problem = f'all {len(paths)} pictures are those of train_dataloader, which the distillers see already'
        raise ValueError(f'{KEY}: {problem}: name other pictures, or remove {KEY}.')
    if len(selection) < len(files):
        dataset.get_subset_(selection)
    paths = [files[number] for number in selection]
    _check_other_sets(paths, config, labelled)
    steps, left_out = option.pipeline, list[str]()
    if steps == 'auto':
        steps, left_out = without_labels(training_steps(config['train_dataloader']['dataset']))
    try_steps(steps, paths[:8], KEY)  # several, as the first ones may be damaged
    dataset.pipeline = Compose(copy.deepcopy(list(steps)))
    return Pictures(dataset, len(matches), left_out)


def _check_other_sets(paths: Sequence[str], config: Mapping[str, Any], labelled: Any) -> None:
    """Refuse pictures of validation or test, on which a model that has seen them cannot be tested, and label images."""
    label_images = {'train_dataloader': picture_paths(labelled, _LABEL)}
    options: list[Any] = []
    for name in ('val_dataloader', 'test_dataloader'):
        option = (config.get(name) or {}).get('dataset')
        if option is None or option in options:
            continue
        options.append(option)
        try:
            dataset = DATASETS.build(copy.deepcopy(option))
            images, label_images[name] = picture_paths(dataset), picture_paths(dataset, _LABEL)
        except Exception as error:  # a data set may run any code, and test data need not be there
            _warn(name, f'the data set cannot be opened ({str(error).splitlines()[0] if str(error) else error!r})')
            continue
        if same := same_pictures(paths, _comparable(images, name)):
            pairs = [path if path == other else f'{path} (= {other})' for path, other in same.items()]
            problem = f'{len(same)} of {len(paths)} pictures are also in {name}, so its results would tell nothing'
            remedy = f'Take them out of the folder, or list the others in {KEY}.ann_file'
            raise ValueError(f'{KEY}: {problem} about new pictures: {some(pairs, 3)}. {remedy}.')
    for name, images in label_images.items():  # which a folder of pictures and labels has beside the pictures
        labels = {os.path.realpath(path) for path in images}
        if hits := [path for path in paths if os.path.realpath(path) in labels]:
            problem = f'{len(hits)} of {len(paths)} pictures are label images of {name}: {some(hits, 3)}'
            remedy = f'the folders of pictures alone, in {KEY}.data_prefix (a list), or the pictures in {KEY}.ann_file'
            raise ValueError(f'{KEY}: {problem}. Name {remedy}.')


def _comparable(paths: list[str], name: str) -> list[str]:
    """Return the pictures of a loader; warn if it does not tell them, or if some are no files here."""
    elsewhere = [path for path in paths if not os.path.isfile(path)]  # generated pictures, remote stores
    if elsewhere or not paths:
        text = f'{len(elsewhere)} of its {len(paths)} pictures are no files here, e.g. {elsewhere[0]}' if paths else ''
        _warn(name, text or 'its data set does not tell the paths of its pictures')
    return paths


def _warn(name: str, reason: str) -> None:
    message = f'{KEY}: could not be compared with the pictures of {name}: {reason}'
    print_log(message, 'current', logging.WARNING)


_TAG = 2  # of the seeds of this stream
FEW = 4  # steps in which all pictures have been seen


class PassSampler(Sampler[int]):
    """Endless indices, all pictures in each pass in a new order.

    The order of a pass depends only on the seed and the number of the pass, and ``world`` processes take the positions
    in turn. So a process that has taken ``start`` indices knows its next one, and there is no state to save.
    """

    def __init__(self, count: int, seed: int, rank: int = 0, world: int = 1, start: int = 0) -> None:
        self.count, self.seed, self.rank, self.world, self.start = count, seed, rank, world, start

    def __iter__(self) -> Iterator[int]:
        number, order = -1, torch.empty(0)
        for step in itertools.count(self.start):
            passes, offset = divmod(step * self.world + self.rank, self.count)
            if passes != number:
                draw = torch.Generator().manual_seed(mix(self.seed, passes, _TAG))
                number, order = passes, torch.randperm(self.count, generator=draw)
            yield int(order[offset])


@HOOKS.register_module()
class UnlabelledStream(Hook):
    """Gives each step its pictures without labels; has no effect on a run without ``model.unlabelled``.

    They are read by iteration, by as many workers as the labelled ones; the streams of these are not touched.
    """

    def __init__(self) -> None:
        self._second: Unlabelled | None = None
        self._pictures: Pictures
        self._options: dict[str, Any] = {}  # of their loader
        self._batches: SeededBatches | None = None

    def before_run(self, runner: Runner) -> None:
        """Open the pictures before anything is loaded."""
        self._second = unlabelled_of(unwrap(runner.model)) if built_loop(runner) is not None else None
        if self._second is not None:
            if modules := runner.cfg.get('activation_checkpointing'):
                self._second.option.refuse_recomputed(f'activation_checkpointing={modules!r}')
            self._pictures = open_pictures(self._second.option, runner.cfg, runner.train_dataloader.dataset)
            self._second.files = {**self._pictures.identity(), 'ratio': self._second.option.ratio}

    def before_train(self, runner: Runner) -> None:
        """Set up the loader, and tell about it."""
        if self._second is None:
            return
        option, loader, model = self._second.option, runner.train_dataloader, unwrap(runner.model)
        workers = loader.num_workers if option.workers is None else option.workers
        context = {'multiprocessing_context': loader.multiprocessing_context} if workers else {}
        count = option.count(loader.batch_sampler.batch_size)
        reading = {'num_workers': workers, 'pin_memory': loader.pin_memory, **context}
        self._options = {'batch_size': count, 'collate_fn': pseudo_collate, **reading}
        distillers, last = distillers_of(model), runner.max_iters
        takers = [distillers[name] for name in self._second.takers]
        if count == 1:
            check_one_picture(model, [tap.path for distiller in takers for tap in distiller.recorded_taps])
        total, step = len(self._pictures.dataset), count * get_world_size()
        out = f', {self._pictures.labelled} labelled ones taken out' if self._pictures.labelled else ''
        left_out = ', '.join(self._pictures.left_out)
        skipped = f'; steps of the pipeline left out: {left_out}' if left_out else ''
        runner.logger.info(
            f'{KEY}: {total} pictures{out}; {step} of them a step, each once in {total / step:.4g} steps; they teach '
            f'{", ".join(self._second.takers)}{skipped}'
        )
        end = min(last, max(distiller.schedule.end(last) for distiller in takers))
        if (begin := in_iterations(option.start, last)) >= end:
            problem = f'they begin after step {begin:g} of {end:g}'
            runner.logger.warning(f'{KEY}.start: no step takes these pictures: {problem}.')
        if total < FEW * step:
            problem = f'{total} pictures are few for {step} a step, each is seen again within {FEW} steps'
            runner.logger.warning(f'{KEY}: {problem}: lower {KEY}.ratio, or add pictures.')

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Draw the pictures of this step, if a distiller compares them."""
        if self._second is None:
            return
        model: Any = unwrap(runner.model)
        distillers, state = distillers_of(model), model.distillation.state  # with one seed in all processes
        has_begun = state.iteration >= in_iterations(self._second.option.start, runner.max_iters)
        is_used = has_begun and any(distillers[name].is_active() for name in self._second.takers)
        self._second.batch = self._batch_at(state.iteration, state.seed) if is_used else None

    def after_train(self, runner: Runner) -> None:
        """End the workers."""
        if self._second is not None:
            self._close()
            self._second.batch = None

    def _batch_at(self, iteration: int, seed: int) -> Any:
        """Return the batch of an iteration; quick if it follows the one before."""
        with fork_rng():
            if self._batches is None or self._batches.position != iteration:
                self._close()
                dataset, rank = self._pictures.dataset, get_rank()
                start = iteration * self._options['batch_size']
                sampler = PassSampler(len(dataset), seed, rank, get_world_size(), start)
                loader: DataLoader = DataLoader(dataset, sampler=sampler, **self._options)
                self._batches = SeededBatches(loader, mix(seed, _TAG), rank, start=iteration)
            return next(self._batches)

    def _close(self) -> None:
        if self._batches is not None:
            self._batches.close()
        self._batches = None
