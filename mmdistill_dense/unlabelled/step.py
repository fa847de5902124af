"""The part of a training step on pictures without labels."""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.structures import InstanceData
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from mmdistill_dense.config.unknown_keys import check_known
from mmdistill_dense.distillers.base import Distiller, Losses, RunState
from mmdistill_dense.distillers.schedule import check_point, in_iterations
from mmdistill_dense.model.distill_model import Distilled, Extra, Step, Terms, compare, recording, teach
from mmdistill_dense.networks.inputs import completed
from mmdistill_dense.networks.recording import run_parts
from mmdistill_dense.networks.teacher import FrozenTeacher
from mmdistill_dense.networks.trace import TeacherOption, Traced
from mmdistill_dense.registry import DISTILLERS, EXTRAS, HOOKS
from mmdistill_dense.unlabelled.pictures import UnlabeledImages
from mmdistill_dense.unlabelled.pseudo_labels import (
    IGNORED,
    PseudoOption,
    check_labeller,
    check_pairs,
    check_student,
    ignored_label,
    label_pictures,
    pseudo_losses,
)
from mmdistill_dense.unlabelled.strong_view import Pixels, StrongOption, strong_view
from mmdistill_dense.utils.reproducible import fork_rng, mix, seed_everything
from mmdistill_dense.utils.runner_internals import Network, Samples, batch_augments
from mmdistill_dense.utils.validate import check_count, check_option, is_number

KEY = 'model.unlabelled'
_HIGH_RATIO = 8
_NOT_FILES = ('self', 'kwargs')
PART = 'unlabelled'
_TAG, _TAG_STRONG = 4, 5  # of the random numbers of this part; other modules use the lower ones


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
        pseudo: Labels of the teacher, from which the student's own loss learns too. Defaults to None.
        strong: What the student sees changed, while the teacher sees the plain pictures. Defaults to None.
    """

    pictures: Mapping[str, Any]
    ratio: float = 1
    weight: float = 1
    start: int | float = 0
    bn: str = 'both'
    pipeline: Any = 'auto'
    workers: int | None = None
    pseudo: PseudoOption | None = None
    strong: StrongOption | None = None

    def __post_init__(self) -> None:
        if not any(self.pictures.get(name) for name in ('data_root', 'data_prefix', 'ann_file')):
            raise ValueError(f"{KEY} names no pictures: set data_root, e.g. {KEY}=dict(data_root='data/more').")
        for name, value in (('ratio', self.ratio), ('weight', self.weight)):
            if not is_number(value) or value <= 0:
                raise ValueError(f'{KEY}.{name} must be a number > 0, got {value!r}; to switch it off, remove {KEY}.')
        check_point(f'{KEY}.start', self.start)
        check_option(f'{KEY}.bn', self.bn, ('both', 'labelled'))
        if self.pipeline != 'auto' and not (isinstance(self.pipeline, (list, tuple)) and self.pipeline):
            raise ValueError(f"{KEY}.pipeline must be 'auto' or a list of transforms, got {self.pipeline!r}.")
        if self.workers is not None:
            check_count(f'{KEY}.workers', self.workers, 0)

    @classmethod
    def parse(cls, option: Mapping[str, Any]) -> UnlabelledOption:
        """Return the options of a config."""
        if not isinstance(option, Mapping):
            raise TypeError(f"{KEY} must be a dict, e.g. dict(data_root='data/more', ratio=1), got {option!r}.")
        own = [one.name for one in fields(cls) if one.name != 'pictures']
        files = [name for name in inspect.signature(UnlabeledImages.__init__).parameters if name not in _NOT_FILES]
        check_known(KEY, option, [*files, *own])
        given = {name: value for name, value in option.items() if name in own}
        given['pseudo'] = PseudoOption.parse(given.get('pseudo'))
        given['strong'] = StrongOption.parse(given.get('strong'))
        return cls({name: value for name, value in option.items() if name in files}, **given)

    def count(self, batch_size: int) -> int:
        """Return the number of pictures without labels beside a batch of labelled ones."""
        return max(1, round(self.ratio * batch_size))


@EXTRAS.register_module()
class Unlabelled(Extra):
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
        self.ignored = IGNORED  # the label of a pixel that teaches nothing
        self._pixels: Pixels | None = None

    def asks(self, options: Mapping[str, TeacherOption], traced: Mapping[str, Traced]) -> Collection[str]:
        """Return the teacher that labels the pictures."""
        if self.option.pseudo is None:
            return ()
        name = self.option.pseudo.teacher_of(options)
        check_labeller(options[name], traced[name])
        return (name,)

    def attach(self, student: nn.Module, distillers: Mapping[str, Distiller], heads: Sequence[str]) -> None:
        """Decide which distillers compare the pictures without labels."""
        if not getattr(student, 'has_task', True):
            raise ValueError(
                f'{KEY}: {type(student).__name__} is pre-trained without labels already: put these pictures into '
                'train_dataloader.dataset.'
            )
        takers = [name for name, one in distillers.items() if not one.needs_labels]
        if not takers and self.option.pseudo is None:
            able = ', '.join(sorted(name for name, kind in DISTILLERS.module_dict.items() if not kind.needs_labels))
            raise ValueError(
                f'{KEY}: {_named(distillers)} needs labels, so no distiller can learn from pictures without them. '
                f'Methods that can: {able}.'
            )
        rest = {name: one for name, one in distillers.items() if one.needs_labels}
        if rest:
            print_log(f'{KEY}: {_named(rest)} needs labels and sees the labelled pictures alone.', 'current')
        if self.option.ratio > _HIGH_RATIO:
            print_log(
                f'{KEY}.ratio={self.option.ratio:g}: a step takes {1 + self.option.ratio:g} times as long as without. '
                f'Above {_HIGH_RATIO}, more steps with a lower ratio are the better use of the time.',
                'current',
                logging.WARNING,
            )
        if self.option.pseudo is not None:
            check_student(student)
            self.ignored = ignored_label(student)
        if self.option.bn == 'labelled':
            _check_recomputed(student)
        for name in takers:
            _check_taps(name, distillers[name], student, heads)
        self.takers = takers

    def check_classes(self, student: nn.Module, teachers: Mapping[str, FrozenTeacher]) -> None:
        """Refuse a teacher whose labels would make background of objects."""
        if self.option.pseudo is not None:
            pairs = teachers[self.option.pseudo.teacher_of(teachers)].class_pairs()
            if pairs is not None:
                check_pairs(pairs, student)

    def hooks(self) -> Sequence[Hook]:
        """Return what reads the pictures."""
        return (HOOKS.build({'type': 'mmdistill_dense.UnlabelledStream'}),)

    def identity(self) -> dict[str, Any]:
        """Return what identifies the pictures."""
        return {PART: self.files}

    def seen(self, model: Network) -> Iterator[tuple[str, Tensor, Samples]]:
        """Yield the pictures of this step."""
        if self.batch is not None:
            yield 'Pictures without labels', *prepared(model, self.batch)

    def student_view(self, model: Distilled, inputs: Tensor, samples: Samples) -> Tensor:
        """Return the strong view of labelled pictures for ``on='all'``."""
        strong = self.option.strong
        return inputs if strong is None or strong.on != 'all' else self._strong(model, inputs, samples, labelled=True)

    def _strong(self, model: Distilled, inputs: Tensor, samples: Samples, labelled: bool) -> Tensor:
        """Return the strong view of a batch; the plain one without that option, or before its ``start``."""
        strong, state = self.option.strong, model.distillation.state
        if strong is None or state.iteration < in_iterations(strong.start, state.max_iters):
            return inputs
        if self._pixels is None:
            config = model.distillation.student
            self._pixels = Pixels.of(completed(config.model.get('data_preprocessor'), config.scope))
        seed = mix(state.seed, state.iteration, _TAG_STRONG, labelled)
        return strong_view(inputs, samples, strong, self._pixels, seed)

    def copy(self) -> Unlabelled:
        """Return the same without the pictures of this step."""
        other = copy.copy(self)
        other.batch, other.files = None, dict(self.files)
        return other

    def add(self, step: Step) -> None:
        """Add the terms of these pictures as ``unlabelled_…``; ``unlabelled.…`` are losses on labels of the teacher.

        Nothing is added without such pictures in this step, or if no distiller that takes them is active.
        """
        takers = {name: one for name, one in step.active.items() if name in self.takers}
        if self.batch is None or not (takers or self.option.pseudo):
            return
        found, pseudo = self._terms(step, takers)
        count = self.option.weight * len(self.batch['inputs'])
        share = count / (step.labelled + count)
        both = {
            name: {**_times(1 - share, step.terms[name]), **_times(share, own, f'{PART}_')}
            for name, own in found.items()
        }
        step.terms = {**step.terms, **both}
        step.added = {**step.added, **{f'{PART}.{name}': value for name, value in pseudo.items()}}

    def _terms(self, step: Step, takers: Mapping[str, Distiller]) -> tuple[Terms, dict[str, Any]]:
        """Run the teachers and the student's tapped parts on the pictures, and compare.

        No random number of the rest of the run changes. Without labels of the teacher, the student's ``loss`` is not
        called, so no head learns that there is nothing on these pictures. With them, that loss records the taps.
        """
        assert self.batch is not None, 'the step has such pictures'
        model, distillation = step.model, step.model.distillation
        state, pseudo, own = distillation.state, self.option.pseudo, dict[str, Any]()
        taps = [tap for one in takers.values() for tap in one.recorded_taps]
        heads = [one for one in distillation.traced.heads if any(f'{tap.path}.'.startswith(f'{one}.') for tap in taps)]
        seed = mix(state.seed, state.rank, state.iteration, _TAG)
        with ExitStack() as stack:
            stack.enter_context(fork_rng())
            stack.enter_context(_part(state))
            seed_everything(seed)
            inputs, samples = prepared(model, self.batch)
            taught = teach(takers, inputs, next(model.parameters()))
            if pseudo is not None:
                teacher = distillation.teachers[pseudo.teacher_of(distillation.teachers)]
                teacher.load(next(model.parameters()))
                pairs = teacher.class_pairs()
                label = partial(label_pictures, samples=samples, option=pseudo, ignored=self.ignored, pairs=pairs)
                teacher.ask(label, inputs, seed)
            if self.option.bn == 'labelled':
                stack.enter_context(_kept_statistics(model))
            seen = self._strong(model, inputs, samples, labelled=False)
            with recording(model, takers) as student:
                if pseudo is None:
                    run_parts(model, taps, seen, heads=heads)
                else:
                    own = pseudo_losses(model, step.task, seen, samples, pseudo.weight)
            return compare(takers, student, taught, samples), own


def unlabelled_of(model: nn.Module) -> Unlabelled | None:
    """Return what a model holds of its pictures without labels, if it has any."""
    extras = model.distillation.extras if isinstance(model, Distilled) else ()
    return next((extra for extra in extras if isinstance(extra, Unlabelled)), None)


def _named(distillers: Mapping[str, Distiller]) -> str:
    return ', '.join(f'{name} ({type(one).__name__})' for name, one in distillers.items())


def _check_recomputed(student: nn.Module) -> None:
    """Refuse recomputed activations: in the backward pass running statistics follow all pictures again."""
    found = [name for name, one in student.named_modules() if getattr(one, 'with_cp', False) is True]
    if found:
        raise ValueError(
            f"{KEY}.bn='labelled': {found[0]} of the student recomputes its activations (with_cp=True), and then its "
            f'running statistics follow the other pictures too: set with_cp=False, or remove {KEY}.bn.'
        )


def check_one_picture(student: nn.Module, taps: Sequence[str], whole: bool) -> None:
    """Refuse a step of one picture for heads that pool it to a pixel and normalise that, which needs two.

    ``taps`` are paths of modules; with ``whole`` the student's own loss is computed, and so all heads run.
    """
    for path, one in student.named_modules():
        head = path.split('.')[0]
        runs = whole or any(tap.split('.')[0] == head for tap in taps)
        if runs and isinstance(one, nn.Sequential) and _normalises_a_pixel(one):
            raise ValueError(
                f'{KEY}: one picture a step, and {path} of the student normalises a map of one pixel, which needs two: '
                f'set {KEY}.ratio so that ratio * batch_size is at least 2.'
            )


def _normalises_a_pixel(parts: nn.Sequential) -> bool:
    pooled = False
    for part in parts:
        pooled |= isinstance(part, nn.AdaptiveAvgPool2d) and part.output_size in (1, (1, 1), [1, 1])
        if pooled and any(isinstance(one, nn.BatchNorm2d) for one in part.modules()):
            return True
    return False


def _check_taps(name: str, distiller: Distiller, student: nn.Module, heads: Sequence[str]) -> None:
    """Refuse taps in a RoI head: it runs on proposals, and the student makes those in its loss alone."""
    rois = [path for path in heads if hasattr(student.get_submodule(path), '_bbox_forward')]
    for tap in distiller.recorded_taps:
        if any(f'{tap.path}.'.startswith(f'{path}.') for path in rois):
            raise ValueError(
                f'model.distillers.{name}.student_tap={str(tap)!r} runs on proposals, which the student makes in its '
                f'loss and so never on pictures without labels: tap the backbone or the neck, or remove {KEY}.'
            )


def prepared(model: Network, batch: Mapping[str, Any]) -> tuple[Tensor, Samples]:
    """Return the student's preprocessed pictures and their samples, with the padded size that methods read."""
    modules = batch_augments(model)
    states = [dict(vars(one)) for one in modules]
    for sample in batch['data_samples'] if modules else ():
        sample.gt_instances = InstanceData(bboxes=torch.zeros(0, 4))  # they scale boxes, also where there are none
    for one in modules:
        vars(one).update({name: False for name in ('pad_mask', 'pad_seg') if hasattr(one, name)})  # there are none
    data = model.data_preprocessor(dict(batch), True)
    for one, state in zip(modules, states, strict=True):
        vars(one).update(state)  # the size that the labelled pictures have until they draw another
    for sample in data['data_samples']:
        if modules:
            sample.gt_instances = InstanceData()
        if sample.metainfo.get('pad_shape', ()) is None:  # mmseg sets it from the label map
            sample.set_metainfo({'pad_shape': tuple(data['inputs'].shape[-2:])})
    return data['inputs'], data['data_samples']


def _times(factor: float, terms: Losses, prefix: str = '') -> Losses:
    return {f'{prefix}{name}': factor * value if 'loss' in name else value for name, value in terms.items()}


@contextmanager
def _part(state: RunState) -> Iterator[None]:
    state.part = PART
    try:
        yield
    finally:
        state.part = ''


@contextmanager
def _kept_statistics(model: nn.Module) -> Iterator[None]:
    """Normalise with the statistics of the batch, as in training, but leave the running ones as they are."""
    norms: Sequence[_NormBase] = [
        one for one in model.modules() if isinstance(one, _NormBase) and one.training and one.track_running_stats
    ]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
