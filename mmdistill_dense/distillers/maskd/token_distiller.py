"""What the methods with tokens share: learning or loading them before training, and keeping them as buffers."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from mmdistill_dense import losses
from mmdistill_dense.distillers.base import Losses, Recorded, Shapes
from mmdistill_dense.distillers.feature import FeatureDistiller
from mmdistill_dense.distillers.maskd.gated_teacher import Gate, GatedTap, token_gate
from mmdistill_dense.distillers.maskd.learning import LearnOptions
from mmdistill_dense.distillers.maskd.token_files import BRANCH, Values, as_number
from mmdistill_dense.distillers.maskd.tokens import prepare_tokens
from mmdistill_dense.networks.taps import TapOption
from mmdistill_dense.utils.runner_internals import Samples
from mmdistill_dense.utils.validate import Align, Resize, check_count

if TYPE_CHECKING:
    from mmengine.runner import Runner

    from mmdistill_dense.networks.teacher import FrozenTeacher


# how the released code of MasKD learns tokens for segmentation
LEARN_SEG = dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-3), schedule='poly')


class TokenDistiller(FeatureDistiller):
    """Compares maps by masks of the teacher's map, which tokens make; a method says what tokens a level has
    (:meth:`token_module`), how they mask a map while they are learned (``gate``), and its loss.

    Args:
        num_tokens: Tokens of a level, or of a band.
        share_tokens: All taps use the tokens of the first.
        tokens: File or URL of learned tokens. Defaults to learning them on the teacher before training.
        allow_other_teacher: Accept tokens that were learned on another teacher.
        learn: Options of :class:`LearnOptions`.
    """

    needs: ClassVar[tuple[str, ...]] = ('map',)
    needs_scores: ClassVar[bool] = True  # tokens are learned through the teacher's loss
    gate: ClassVar[Gate] = staticmethod(token_gate)

    def __init__(
        self,
        student_tap: TapOption = 'neck',
        teacher_tap: TapOption | None = None,
        *,
        num_tokens: int = 6,
        share_tokens: bool = False,
        align: Align = 'conv',
        resize: Resize | None = 'student',
        tokens: str | None = None,
        allow_other_teacher: bool = False,
        learn: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(student_tap, teacher_tap, align=align, resize=resize, **kwargs)
        check_count('num_tokens', num_tokens, 1)
        self.num_tokens = num_tokens
        self.share_tokens = share_tokens
        self.tokens = tokens
        self.allow_other_teacher = allow_other_teacher
        self.learn = LearnOptions.parse(learn or {})
        self.teacher_parts = None if tokens is None else ()  # learning runs the whole teacher
        self.gated_taps: list[GatedTap] = []
        self.mask_modules = nn.ModuleList()
        # 0 without tokens, else their teacher's fingerprint as a number (1 if that is unknown)
        self.tokens_ready: Tensor
        self._ready = False  # avoids reading the buffer from the device in every step
        self.register_buffer('tokens_ready', torch.zeros((), dtype=torch.int64))

    def token_module(self, channels: int) -> TokenModule:
        """Return the tokens of a level whose map at the teacher has so many channels."""
        raise NotImplementedError

    def drawn_masks(self, level: int, teacher_map: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """Return the masks (N, T, h, w) of a level's map and their weights (N, T), by the band that they mask."""
        raise NotImplementedError

    def setup(self, student: Shapes, teacher: Shapes) -> None:
        super().setup(student, teacher)
        counts = [len(teacher[str(tap)]) for tap in self.teacher_taps]
        first = 0
        for tap, count in zip(self.teacher_taps, counts, strict=True):
            self.gated_taps.append(GatedTap(tap, first, count, type(self).gate))
            first += count
        if self.share_tokens:
            del self.gated_taps[1:]
            self._check_shared(counts)
        for level in self.levels[: self.gated_taps[-1].first + self.gated_taps[-1].count]:
            self.mask_modules.append(self.token_module(level.teacher[0]))
        for level in self.levels:
            if level.student[1:] != level.teacher[1:]:
                print_log(
                    f'{self.key}: {level.name}: the student map is {tuple(level.student[1:])}, the teacher '
                    f"map {tuple(level.teacher[1:])}; the {self.resize}'s is resized bilinearly.",
                    'current',
                    logging.WARNING,
                )

    def _check_shared(self, counts: Sequence[int]) -> None:
        channels = [level.teacher[0] for level in self.levels]
        if len(set(counts)) > 1 or channels != channels[: counts[0]] * len(counts):
            raise ValueError(
                f'{self.key}.share_tokens=True: the taps {", ".join(map(str, self.teacher_taps))} have '
                f'{counts} levels of {channels} channels; shared tokens need the same levels and channels in each tap.'
            )

    def prepare(self, runner: Runner, teacher: FrozenTeacher) -> None:
        """Load or learn the tokens, see :mod:`mmdistill_dense.distillers.maskd.tokens`."""
        prepare_tokens(self, runner, teacher)

    def token_shapes(self) -> dict[str, torch.Size]:
        """Return the shapes of tokens and branches, by their names in token files."""
        return {name: value.shape for name, value in self.mask_modules.state_dict().items()}

    def load_tokens(self, values: Values, teacher: str | None = None) -> None:
        """Set the tokens, and the fingerprint of the teacher that they are used with."""
        self.mask_modules.load_state_dict(values)
        self.tokens_ready.fill_(as_number(teacher))

    def has_tokens_of(self, teacher: str) -> bool:
        """Return whether there are tokens, of this teacher or of an unknown one."""
        return int(self.tokens_ready) in (1, as_number(teacher))

    def forward(self, student: Recorded, teacher: Recorded, data_samples: Samples) -> Losses:
        self._ready = self._ready or bool(self.tokens_ready)
        if not self._ready:
            raise RuntimeError(f'{self.key} has no tokens yet: prepare() learns or loads them before training.')
        return super().forward(student, teacher, data_samples)

    def slot(self, level: int) -> TokenModule:
        """Return the tokens of a level."""
        module: Any = self.mask_modules[level % len(self.mask_modules) if self.share_tokens else level]
        return module


class TokenModule(nn.Module):
    """Tokens (..., channels) and branch of one level, as buffers under the names of the released files."""

    mask_token: Tensor

    def __init__(self, *shape: int, weight_mask: bool = False) -> None:
        super().__init__()
        self.register_buffer('mask_token', torch.zeros(shape))
        if weight_mask:
            tokens, channels = shape
            conv = _Constants((channels, channels, 3, 3))
            self.prob = nn.ModuleDict({'0': conv, '2': _Constants((tokens, channels, 1, 1))})
        self.weight_mask = weight_mask

    def branch(self) -> losses.Branch | None:
        """Return the parameters of the branch, if there is one."""
        return losses.Branch(*(self.get_buffer(name) for name in BRANCH)) if self.weight_mask else None


class _Constants(nn.Module):
    """Weight and bias of a convolution as buffers."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer('weight', torch.zeros(shape))
        self.register_buffer('bias', torch.zeros(shape[0]))
