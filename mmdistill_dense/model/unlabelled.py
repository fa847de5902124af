"""The option ``model.unlabelled``: pictures without labels, on which the distillers teach as well."""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from mmengine.logging import print_log
from torch import nn

from mmdistill_dense.config.unknown_keys import hint
from mmdistill_dense.datasets.unlabeled import UnlabeledImages
from mmdistill_dense.distillers.base import Distiller
from mmdistill_dense.distillers.schedule import check_point
from mmdistill_dense.model.pseudo_labels import IGNORED, PseudoOption, check_student, ignored_label
from mmdistill_dense.registry import DISTILLERS
from mmdistill_dense.utils.validate import check_count, check_option

KEY = 'model.unlabelled'
_HIGH_RATIO = 8
_NOT_FILES = ('self', 'kwargs')


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
    """

    pictures: Mapping[str, Any]
    ratio: float = 1
    weight: float = 1
    start: int | float = 0
    bn: str = 'both'
    pipeline: Any = 'auto'
    workers: int | None = None
    pseudo: PseudoOption | None = None

    def __post_init__(self) -> None:
        if not any(self.pictures.get(name) for name in ('data_root', 'data_prefix', 'ann_file')):
            raise ValueError(f"{KEY} names no pictures: set data_root, e.g. {KEY}=dict(data_root='data/more').")
        for name, value in (('ratio', self.ratio), ('weight', self.weight)):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
                raise ValueError(f'{KEY}.{name} must be a number > 0, got {value!r}; to switch it off, remove {KEY}.')
        check_point(f'{KEY}.start', self.start)
        check_option(f'{KEY}.bn', self.bn, ('both', 'labelled'))
        if self.pipeline != 'auto' and not (isinstance(self.pipeline, (list, tuple)) and self.pipeline):
            raise ValueError(f"{KEY}.pipeline must be 'auto' or a list of transforms, got {self.pipeline!r}.")
        if self.workers is not None:
            check_count(f'{KEY}.workers', self.workers, 0)

    @classmethod
    def parse(cls, option: Mapping[str, Any] | None) -> UnlabelledOption | None:
        """Return the options of a config, ``None`` without any."""
        if option is None:
            return None
        if not isinstance(option, Mapping):
            raise TypeError(f"{KEY} must be a dict, e.g. dict(data_root='data/more', ratio=1), got {option!r}.")
        own = [one.name for one in fields(cls) if one.name != 'pictures']
        files = [name for name in inspect.signature(UnlabeledImages.__init__).parameters if name not in _NOT_FILES]
        for name in option:
            if name not in (*own, *files):
                known = ', '.join([*files, *own])
                raise TypeError(f'{KEY} has no option {name!r}; known: {known}.{hint(name, [*files, *own])}')
        given = {name: value for name, value in option.items() if name in own}
        given['pseudo'] = PseudoOption.parse(given.get('pseudo'))
        return cls({name: value for name, value in option.items() if name in files}, **given)

    def count(self, batch_size: int) -> int:
        """Return the number of pictures without labels beside a batch of labelled ones."""
        return max(1, round(self.ratio * batch_size))


@dataclass(eq=False)
class Unlabelled:
    """What a model holds of its pictures without labels.

    Attributes:
        option: The options.
        takers: Names of the distillers that compare these pictures; the others need labels.
        batch: The pictures of the current step, as the loader gives them; ``DistillHook`` sets it, ``None`` is none.
        files: What identifies the pictures in a checkpoint: their number, a hash of their names, and ``ratio``.
        ignored: The label of a pixel that teaches nothing to the student.
    """

    option: UnlabelledOption
    takers: Sequence[str]
    batch: Mapping[str, Any] | None = None
    files: dict[str, Any] = field(default_factory=dict)
    ignored: int = IGNORED

    @classmethod
    def of(
        cls, option: UnlabelledOption, student: nn.Module, distillers: Mapping[str, Distiller], heads: Sequence[str]
    ) -> Unlabelled:
        """Decide which distillers compare the pictures without labels.

        Args:
            option: The options.
            student: The student.
            distillers: By name, bound.
            heads: Paths of the student's heads that hold taps, from its trace.
        """
        if not getattr(student, 'has_task', True):
            raise ValueError(
                f'{KEY}: {type(student).__name__} is pre-trained without labels already: put these pictures into '
                'train_dataloader.dataset.'
            )
        takers = [name for name, one in distillers.items() if not one.needs_labels]
        if not takers and option.pseudo is None:
            able = ', '.join(sorted(name for name, kind in DISTILLERS.module_dict.items() if not kind.needs_labels))
            raise ValueError(
                f'{KEY}: {_named(distillers)} needs labels, so no distiller can learn from pictures without them. '
                f'Methods that can: {able}.'
            )
        rest = {name: one for name, one in distillers.items() if one.needs_labels}
        if rest:
            print_log(f'{KEY}: {_named(rest)} needs labels and sees the labelled pictures alone.', 'current')
        if option.ratio > _HIGH_RATIO:
            print_log(
                f'{KEY}.ratio={option.ratio:g}: a step takes {1 + option.ratio:g} times as long as without. Above '
                f'{_HIGH_RATIO}, more steps with a lower ratio are the better use of the time.',
                'current',
                logging.WARNING,
            )
        ignored = IGNORED
        if option.pseudo is not None:
            check_student(student)
            ignored = ignored_label(student)
        if option.bn == 'labelled':
            _check_recomputed(student)
        for name in takers:
            _check_taps(name, distillers[name], student, heads)
        return cls(option, takers, ignored=ignored)

    def without_batch(self) -> Unlabelled:
        """Return the same for a copy of the model."""
        return replace(self, batch=None, files=dict(self.files))


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

    Args:
        student: The student.
        taps: Paths of its taps.
        whole: Whether its own loss is computed, and so all heads run.
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
