"""The part of a training step on pictures without labels."""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.structures import InstanceData
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from mmdistill_dense.config.unknown_keys import check_known, read_options
from mmdistill_dense.distillers.base import Distiller, Losses
from mmdistill_dense.model.distill_model import (
    Distilled,
    StepPlugin,
    Terms,
    TrainStep,
    distill_losses,
    recording,
    run_teachers,
)
from mmdistill_dense.networks.modes import attributes
from mmdistill_dense.networks.recording import run_parts
from mmdistill_dense.registry import DISTILLERS, HOOKS, STEP_PLUGINS
from mmdistill_dense.unlabelled.pictures import UnlabeledImages
from mmdistill_dense.utils.reproducible import fork_rng, seed_everything
from mmdistill_dense.utils.runner_internals import Network, Samples, batch_augments
from mmdistill_dense.utils.validate import Iteration, PartOfRun, Positive, Whole

KEY = 'model.unlabelled'
_HIGH_RATIO = 8
PART = 'unlabelled'
_TAG = 4  # of the random numbers of this part; other modules use the lower ones


@dataclass(frozen=True)
class UnlabelledOption:
    """Options of ``model.unlabelled``.

    Args:
        pictures: Options of :class:`UnlabeledImages`: ``data_root``, ``data_prefix``, ``ann_file``, ``extensions``,
            ``min_size``, ``check``.
        ratio: Pictures without labels for each labelled picture of a step. Defaults to 1.
        weight: How much a picture without labels counts, compared with a labelled one. Defaults to 1.
        start: Iteration (int) or part of the run (float) before which no such picture is read. Defaults to 0.
        bn: ``'both'``: the running statistics of the student's batch norms also follow these pictures;
            ``'labelled'``: they do not.
        pipeline: ``'auto'``: the labelled pipeline without what reads labels; or a list of transforms.
        workers: Processes that read the pictures. Defaults to those of ``train_dataloader``.
    """

    pictures: Mapping[str, Any]
    ratio: Positive = 1
    weight: Positive = 1
    start: Iteration | PartOfRun = 0
    bn: Literal['both', 'labelled'] = 'both'
    pipeline: Any = 'auto'
    workers: Whole | None = None

    def __post_init__(self) -> None:
        if not any(self.pictures.get(name) for name in ('data_root', 'data_prefix', 'ann_file')):
            raise ValueError(f"{KEY} names no pictures: set data_root, e.g. {KEY}=dict(data_root='data/more').")
        if self.pipeline != 'auto' and not (isinstance(self.pipeline, (list, tuple)) and self.pipeline):
            raise ValueError(f"{KEY}.pipeline must be 'auto' or a list of transforms, got {self.pipeline!r}.")

    @classmethod
    def parse(cls, option: Mapping[str, Any]) -> UnlabelledOption:
        """Return the options of a config."""
        files = [name for name in inspect.signature(UnlabeledImages).parameters if name != 'kwargs']
        if not isinstance(option, Mapping):
            raise TypeError(f"{KEY} must be a dict, e.g. dict(data_root='data/more', ratio=1), got {option!r}.")
        check_known(KEY, option, [*files, *(field.name for field in fields(cls) if field.name != 'pictures')])
        options = {name: value for name, value in option.items() if name not in files}
        pictures = {name: value for name, value in option.items() if name in files}
        return read_options(cls, {'pictures': pictures, **options}, KEY)

    def count(self, batch_size: int) -> int:
        """Return the number of pictures without labels beside a batch of labelled ones."""
        return max(1, round(self.ratio * batch_size))

    def refuse_recomputed(self, source: str) -> None:
        """Refuse recomputed activations: in the backward pass running statistics follow all pictures again.

        And a part that runs twice in a step, both times recomputed, is ready twice for ``DistributedDataParallel``.
        """
        if self.bn == 'labelled' or get_world_size() > 1:
            problem = 'the pictures without labels cannot run through it too: leave it out'
            when = f"With several processes, or {KEY}.bn='labelled'"
            raise ValueError(f'{KEY}: {source} recomputes activations of the student. {when}, {problem}.')


@STEP_PLUGINS.register_module()
class Unlabelled(StepPlugin):
    """The part of a training step on pictures without labels.

    Of ``n`` labelled pictures and ``m`` without labels, which count ``weight`` each, the terms of a distiller get the
    factors ``n / (n + weight m)`` and ``weight m / (n + weight m)``. So the strength of the distillation does not
    depend on ``ratio``. A distiller that needs labels keeps its terms as they are.
    """

    def __init__(self, option: Mapping[str, Any] | UnlabelledOption) -> None:
        self.option = option if isinstance(option, UnlabelledOption) else UnlabelledOption.parse(option)
        self.takers: Sequence[str] = ()  # names of the distillers that compare these pictures; others need labels
        self.batch: Mapping[str, Any] | None = None  # the pictures of this step, as the loader gives them
        self.files: dict[str, Any] = {}  # their number, a hash of their names, and `ratio`, for checkpoints

    def attach(self, student: nn.Module, distillers: Mapping[str, Distiller], heads: Sequence[str]) -> None:
        """Decide which distillers compare the pictures without labels."""
        if not getattr(student, 'has_task', True):
            problem = f'{type(student).__name__} is pre-trained without labels already'
            raise ValueError(f'{KEY}: {problem}: put these pictures into train_dataloader.dataset.')
        takers = [name for name, distiller in distillers.items() if not distiller.needs_labels]
        if not takers:
            able = ', '.join(sorted(name for name, kind in DISTILLERS.module_dict.items() if not kind.needs_labels))
            problem = f'{_titles(distillers)} needs labels, so no distiller can learn from pictures without them'
            raise ValueError(f'{KEY}: {problem}. Methods that can: {able}.')
        label_methods = {name: distiller for name, distiller in distillers.items() if distiller.needs_labels}
        if label_methods:
            print_log(f'{KEY}: {_titles(label_methods)} needs labels and sees the labelled pictures alone.', 'current')
        if self.option.ratio > _HIGH_RATIO:
            cost = f'a step takes {1 + self.option.ratio:g} times as long as without'
            advice = f'Above {_HIGH_RATIO}, more steps with a lower ratio are the better use of the time'
            print_log(f'{KEY}.ratio={self.option.ratio:g}: {cost}. {advice}.', 'current', logging.WARNING)
        if names := [name for name, module in student.named_modules() if getattr(module, 'with_cp', False) is True]:
            self.option.refuse_recomputed(f'with_cp=True of {names[0]}')
        # they run on proposals, and the student makes those in its loss alone
        rois = [path for path in heads if hasattr(student.get_submodule(path), '_bbox_forward')]
        for name, tap in ((taker, tap) for taker in takers for tap in distillers[taker].recorded_taps):
            if any(f'{tap.path}.'.startswith(f'{path}.') for path in rois):
                raise ValueError(
                    f'model.distillers.{name}.student_tap={str(tap)!r} runs on proposals, which the student makes in '
                    f'its loss and so never on pictures without labels: tap the backbone or the neck, or remove {KEY}.'
                )
        self.takers = takers

    def hooks(self) -> Sequence[Hook]:
        return (HOOKS.build({'type': 'mmdistill_dense.UnlabelledStream'}),)

    def identity(self) -> dict[str, Any]:
        return {PART: self.files}

    def seen(self, model: Network) -> Iterator[tuple[str, Tensor, Samples]]:
        if self.batch is not None:
            yield 'Pictures without labels', *prepare_batch(model, self.batch)

    def copy(self) -> Unlabelled:
        """Return the same without the pictures of this step."""
        other = copy.copy(self)
        other.batch, other.files = None, dict(self.files)
        return other

    def add(self, step: TrainStep) -> None:
        """Add the terms of these pictures as ``unlabelled_…``.

        Nothing is added without such pictures in this step, or if no distiller that takes them is active.
        """
        takers = {name: distiller for name, distiller in step.active.items() if name in self.takers}
        if self.batch is None or not takers:
            return
        terms = self._terms(step.model, takers, self.batch)
        count = self.option.weight * len(self.batch['inputs'])
        share = count / (step.labelled + count)
        for name, group in terms.items():
            joint_terms = {**_times(1 - share, step.terms[name]), **_times(share, group, f'{PART}_')}
            step.terms = {**step.terms, name: joint_terms}

    def _terms(self, model: Distilled, takers: Mapping[str, Distiller], batch: Mapping[str, Any]) -> Terms:
        """Run the teachers and the student's tapped parts on the pictures, and compare.

        No random number of the rest of the run changes. The student's ``loss`` is not called, so no head learns that
        there is nothing on these pictures.
        """
        state = model.distillation.state
        taps = [tap for distiller in takers.values() for tap in distiller.recorded_taps]
        ran = model.distillation.traced.heads or ()
        heads = [path for path in ran if any(f'{tap.path}.'.startswith(f'{path}.') for tap in taps)]
        with ExitStack() as stack:
            stack.enter_context(fork_rng())
            stack.enter_context(attributes(state, part=PART))
            seed_everything(state.seed, state.rank, state.iteration, _TAG)
            inputs, samples = prepare_batch(model, batch)
            taught = run_teachers(takers, inputs, next(model.parameters()))
            if self.option.bn == 'labelled':  # the batch's statistics normalise, as in training; the running ones stay
                norms = [module for module in model.modules() if isinstance(module, _NormBase) and module.training]
                norms = [norm for norm in norms if norm.track_running_stats]
                stack.enter_context(attributes(*norms, track_running_stats=False))
            with recording(model, takers) as student:
                run_parts(model, taps, inputs, heads=heads)
            return distill_losses(takers, student, taught, samples)


def unlabelled_of(model: nn.Module) -> Unlabelled | None:
    """Return what a model holds of its pictures without labels, if it has any."""
    extras = model.distillation.extras if isinstance(model, Distilled) else ()
    return next((extra for extra in extras if isinstance(extra, Unlabelled)), None)


def _titles(distillers: Mapping[str, Distiller]) -> str:
    return ', '.join(f'{name} ({type(distiller).__name__})' for name, distiller in distillers.items())


def check_one_picture(student: nn.Module, taps: Sequence[str]) -> None:
    """Refuse a step of one picture for heads that pool it to a pixel and normalise that, which needs two.

    ``taps`` are paths of modules.
    """
    parts = {tap.split('.')[0] for tap in taps}
    for path, module in student.named_modules():
        if path.split('.')[0] in parts and isinstance(module, nn.Sequential) and _normalises_a_pixel(module):
            problem = f'one picture a step, and {path} of the student normalises a map of one pixel, which needs two'
            raise ValueError(f'{KEY}: {problem}: set {KEY}.ratio so that ratio * batch_size is at least 2.')


def _normalises_a_pixel(parts: nn.Sequential) -> bool:
    pooled = False
    for part in parts:
        pooled |= isinstance(part, nn.AdaptiveAvgPool2d) and part.output_size in (1, (1, 1), [1, 1])
        if pooled and any(isinstance(module, nn.BatchNorm2d) for module in part.modules()):
            return True
    return False


def prepare_batch(model: Network, batch: Mapping[str, Any]) -> tuple[Tensor, Samples]:
    """Return the student's preprocessed pictures and their samples, with the padded size that methods read."""
    parts = batch_augments(model)
    states = [dict(vars(part)) for part in parts]
    for sample in batch['data_samples'] if parts else ():
        for name in ('gt_instances', 'ignored_instances'):  # they scale boxes, also where there are none
            setattr(sample, name, InstanceData(bboxes=torch.zeros(0, 4)))
    for part in parts:
        vars(part).update({name: False for name in ('pad_mask', 'pad_seg') if hasattr(part, name)})  # there are none
    data = model.data_preprocessor(dict(batch), True)
    for part, state in zip(parts, states, strict=True):
        vars(part).update(state)  # the size that the labelled pictures have until they draw another
    for sample in data['data_samples']:
        if parts:
            sample.gt_instances = sample.ignored_instances = InstanceData()
        if sample.metainfo.get('pad_shape', ()) is None:  # mmseg sets it from the label map
            sample.set_metainfo({'pad_shape': tuple(data['inputs'].shape[-2:])})
    return data['inputs'], data['data_samples']


def _times(factor: float, terms: Losses, prefix: str = '') -> Losses:
    return {f'{prefix}{name}': factor * value if 'loss' in name else value for name, value in terms.items()}
