"""Base class of the methods that compare pairs of maps: levels, alignment of channels, resizing."""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.nn import functional as F

from mmdistill_dense.distillers.base import Distiller, Losses, Recorded, Shapes, check_losses
from mmdistill_dense.distillers.ground_truth import class_lengths
from mmdistill_dense.losses import to_grid
from mmdistill_dense.networks.taps import TapOption
from mmdistill_dense.utils.runner_internals import Samples
from mmdistill_dense.utils.validate import Align, Resize, check_directions, check_map, check_positions

if TYPE_CHECKING:
    from mmdistill_dense.networks.class_pairs import ClassPairs

# Why the methods for class scores refuse student_tap='auto'.
SCORES_HAVE_NAMES = (
    'it compares class scores, not features. Leave student_tap out for a segmentor, whose scores are '
    "'decode_head.conv_seg'; for a detector name the convolution that makes them, e.g. 'bbox_head.retina_cls', which "
    '`mmdistill taps CONFIG` marks'
)

_SCORES = re.compile(r'\.(?:conv_seg|(?!rpn_)\w+_cls)\b')  # modules that give class scores, in the name of a level


@dataclass(frozen=True)
class Level:
    """One pair of compared maps: ``(C, ...)`` shapes without the batch, and the weight of its tap."""

    student: torch.Size
    teacher: torch.Size
    weight: float
    name: str


class PublishedSum(NamedTuple):
    """A published weight of a sum over a map, which counts for maps of that size alone."""

    weight: str  # the option that holds it
    reduction: str  # the option that says whether the map is summed
    sizes: tuple[int, ...]  # C*H*W of the teacher's maps that it was published for
    mean_weight: str  # the same weight in units of the mean
    advice: str  # what to set for other maps


class FeatureDistiller(Distiller):
    """Compares pairs of maps level by level; a method implements :meth:`loss` (or, with the ground truth,
    :meth:`level_loss`) and, for parameters, :meth:`build_level`.

    Modules run in the surrounding autocast; the functions of :mod:`mmdistill_dense.losses` switch it off and compute in
    float32. A tap that yields several tensors (FPN levels, a head called once per level) gives as many levels. The loss
    of a tap is the sum over its levels times the tap's weight. Views of a picture (pre-training) are compared each with
    itself, and the loss is their mean.

    Args:
        align: ``'auto'`` adds a 1x1 convolution after the student's map where channels differ, ``'conv'`` always,
            ``'none'`` never.
        resize: Which map to resize where height or width differ: ``'student'``, ``'teacher'``, or ``None``
            to refuse the pair. Applied after ``align``.
    """

    no_auto: ClassVar[str] = ''
    averages: ClassVar[bool] = False  # a map that shrinks: interpolation alone would skip positions
    aligns_channels: ClassVar[bool] = True  # False where maps of different channels are compared as they are
    tells_sizes: ClassVar[bool] = False  # whether maps of other sizes are told of a single level too
    needs: ClassVar[tuple[str, ...]] = ()  # 'map', and 'positions' or 'directions' (channels), two or more of them

    align: Align = 'auto'
    resize: Resize | None = None

    def __init__(self, *taps: TapOption | None, **options: Any) -> None:
        super().__init__(*taps, **options)
        self.levels: list[Level] = []
        self.aligns = nn.ModuleList()
        self.parts = nn.ModuleList()

    def choose_taps(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Set the taps; they may differ in size, so ``resize=None`` becomes ``'student'``."""
        super().choose_taps(pairs)
        self.resize = self.resize or 'student'

    def setup(self, student: Shapes, teacher: Shapes) -> None:
        """Pair and check the levels, then make the alignments and the method's own parts."""
        for weight, taps, s_shapes, t_shapes in self.paired_shapes(student, teacher):
            for index, (s, t) in enumerate(zip(s_shapes, t_shapes, strict=True)):
                self.levels.append(Level(s[1:], t[1:], weight, f'{taps} (level {index})'))
        for level in self.levels:
            self._check_level(level)
            if level.student[1:] != level.teacher[1:] and (self.tells_sizes or len(self.levels) > 1):
                sizes = f'the student map is {tuple(level.student[1:])}, the teacher map {tuple(level.teacher[1:])}'
                note = f"{self.key}: {level.name}: {sizes}; the {self.resize}'s is resized."
                print_log(note, 'current', logging.WARNING)
            if 'map' in self.needs:
                check_map(self.key, level.name, level.student)
            if 'positions' in self.needs:
                check_positions(self.key, level.name, level.student, level.teacher)
            if 'directions' in self.needs:
                check_directions(self.key, level.name, level.student[0])
            self.aligns.append(self.build_align(level) or nn.Identity())
            self.parts.append(self.build_level(level) or nn.Identity())

    def build_align(self, level: Level) -> nn.Module | None:
        """Return the module that maps the student's channels to the teacher's, or ``None``."""
        s_channels, t_channels = level.student[0], level.teacher[0]
        if not self.aligns_channels or self.align == 'none' or (self.align == 'auto' and s_channels == t_channels):
            return None
        return nn.Conv2d(s_channels, t_channels, 1)

    def build_level(self, level: Level) -> nn.Module | None:
        """Return the method's own parameters for one level (``self.parts[i]``), or ``None``."""
        return None

    def by_class(self, level: Level) -> bool:
        """Tell whether a level holds class scores, which are compared by the pairs of a teacher of other classes."""
        return False

    def check_classes(self, pairs: 'ClassPairs') -> None:
        """Refuse class scores that are compared channel by channel, while the classes stand in another order."""
        for level, align in zip(self.levels, self.aligns, strict=True):
            scores = len(_SCORES.findall(level.name)) == 2 and ':input' not in level.name
            if scores and not pairs.same and isinstance(align, nn.Identity) and not self.by_class(level):
                problem = "compares channels one by one, and the teacher's classes are others, or in another order"
                method = f'{level.name}: {type(self).__name__}'
                raise ValueError(f'{self.key}: {method} {problem}. Tap features, or use LogitKD.')

    def scores(self, level: Level, lengths: tuple[int, int] | None = None) -> int:
        """Return the anchors of a level of class scores where the teacher has other classes.

        The channels are anchors x ``lengths``, the scores of an anchor on both sides, by default the numbers of
        classes.
        """
        s_classes, t_classes = lengths or class_lengths(self.teacher, self.state.classes)
        anchors = [divmod(level.student[0], s_classes), divmod(level.teacher[0], t_classes)]
        if anchors[0] != anchors[1] or anchors[0][1] or not anchors[0][0]:
            raise ValueError(
                f'{self.key}: {level.name} has {level.student[0]} and {level.teacher[0]} channels, not the same '
                f'anchors of {s_classes} and {t_classes} class scores. Tap others; a binary head needs out_channels=2.'
            )
        return anchors[0][0]

    def grid(self, level: Level) -> tuple[int, ...]:
        """Return the size of the compared maps, after ``resize``."""
        return tuple((level.teacher if self.resize == 'student' else level.student)[1:])

    def loss(self, student: Tensor, teacher: Tensor, level: int) -> Tensor | Losses:
        """Return the loss of one level, or several by name; the maps are aligned, the teacher's is detached."""
        raise NotImplementedError(f'{type(self).__name__} must implement loss().')

    def level_loss(self, student: Tensor, teacher: Tensor, level: int, data_samples: Samples) -> Tensor | Losses:
        """Return :meth:`loss`; a method that needs the ground truth overrides this one instead."""
        return self.loss(student, teacher, level)

    def forward(self, student: Recorded, teacher: Recorded, data_samples: Samples) -> Losses:
        """Sum :meth:`level_loss` over the levels; of several views, return the mean.

        What has no ``loss`` in its name is a mean over the levels too, by their weights.
        """
        total: Losses = {}
        weights: dict[str, float] = {}
        views = self.views(student, teacher)
        for students, teachers in views:
            for index, (level, s, t) in enumerate(zip(self.levels, students, teachers, strict=True)):
                losses = self.level_loss(*self.matched(s, t.detach(), index), index, data_samples)
                if isinstance(losses, Tensor):
                    losses = {f'loss_{type(self).__name__.lower()}': losses}
                check_losses(f'model.{self.key}', losses)
                for name, value in losses.items():
                    total[name] = total.get(name, 0.0) + level.weight * value
                    weights[name] = weights.get(name, 0.0) + level.weight
        parts = {name: len(views) if 'loss' in name else weight or 1.0 for name, weight in weights.items()}
        return {name: value if parts[name] == 1 else value / parts[name] for name, value in total.items()}

    def matched(self, student: Tensor, teacher: Tensor, level: int) -> tuple[Tensor, Tensor]:
        """Return both maps of a level as :meth:`loss` gets them: the student's aligned, both of one size."""
        student = self.aligns[level](student)
        if student.shape[2:] == teacher.shape[2:]:
            return student, teacher
        if self.resize == 'student':
            return self.resized(student, teacher.shape[2:]), teacher
        if self.resize == 'teacher':
            return student, self.resized(teacher, student.shape[2:])
        raise ValueError(self._size_message(self.levels[level], student.shape[2:], teacher.shape[2:]))

    def resized(self, x: Tensor, size: Sequence[int]) -> Tensor:
        """Return a map (B, C, H, W) of another size, bilinear.

        One that shrinks is averaged if ``averages`` is set, or if a side shrinks to less than half: interpolation would
        skip most of its positions. At half both are the same.
        """
        if self.averages or any(2 * to < side for to, side in zip(size, x.shape[2:], strict=True)):
            return to_grid(x, size)
        return F.interpolate(x, size, mode='bilinear', align_corners=False)

    def _check_level(self, level: Level) -> None:
        s, t = level.student, level.teacher
        if len(s) != len(t):
            raise ValueError(f'{self.key}: {level.name} compares maps of different rank, {tuple(s)} and {tuple(t)}.')
        if self.align == 'none' and s[0] != t[0] and not self.by_class(level):
            if self.needs_scores:
                raise ValueError(
                    f'{self.key}: {level.name} has {s[0]} class scores of the student and {t[0]} of the teacher. Tap '
                    "class scores on both sides; for a teacher of other classes set model.teacher.classes='auto'."
                )
            raise ValueError(
                f'{self.key}: {level.name} has {s[0]} student and {t[0]} teacher channels; the method '
                "compares them one by one, choose taps with equal channels or, where it has the option, align='auto'."
            )
        if s[1:] != t[1:] and self.resize is None:
            raise ValueError(self._size_message(level, s[1:], t[1:]))

    def _size_message(self, level: Level, student: Sequence[int], teacher: Sequence[int]) -> str:
        return (
            f'{self.key}: {level.name} has a student map of {tuple(student)} and a teacher map of '
            f"{tuple(teacher)}; choose taps of the same stride or set resize='student' or resize='teacher'."
        )
