"""What the methods with tokens share: tokens are learned or loaded before training, and kept as buffers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from mmengine.dist import broadcast_object_list, is_main_process
from torch import Tensor, nn

from mmdistill_dense import losses
from mmdistill_dense.distillers.base import Losses, Recorded, Shapes
from mmdistill_dense.distillers.feature import FeatureDistiller
from mmdistill_dense.distillers.maskd.learning import (
    Gate,
    GatedTap,
    LearnOptions,
    TokenLearner,
    TokenTask,
    learn_distiller_tokens,
    token_gate,
)
from mmdistill_dense.distillers.maskd.token_files import (
    BRANCH,
    TokenTensors,
    as_number,
    fit_tokens,
    learning_fingerprint,
    read_tokens,
    teacher_fingerprint,
    write_tokens,
)
from mmdistill_dense.networks.taps import TapOption
from mmdistill_dense.utils.runner_internals import Samples
from mmdistill_dense.utils.validate import Count
from mmdistill_dense.weights.strict_load import local_file, read_checkpoint

if TYPE_CHECKING:
    from mmengine.runner import Runner

    from mmdistill_dense.networks.teacher import FrozenTeacher

FOLDER = 'maskd_tokens'


class TokenStore:
    """The token files of one distiller in a run, and the fingerprints that identify their loaded teacher."""

    def __init__(self, distiller: TokenDistiller, teacher: FrozenTeacher, work_dir: str | Path, dataset: Any) -> None:
        self.distiller = distiller
        taps = [gated_tap.tap for gated_tap in distiller.gated_taps]
        self.teacher = teacher_fingerprint(teacher, taps)
        settings = {
            'shapes': {name: list(shape) for name, shape in distiller.token_shapes().items()},
            'learn': distiller.learn.identity(),
        }
        self.whole = learning_fingerprint(teacher, taps, settings, dataset)
        self.final = Path(work_dir, FOLDER, f'{distiller.name}-{self.whole}.pth')
        self.partial = self.final.with_suffix('.partial.pth')
        self.meta = {
            'fingerprint': self.whole,
            'teacher': self.teacher,
            'taps': [str(tap) for tap in taps],
            'receipt': teacher.receipt.as_dict() if teacher.receipt else None,
            **settings,
        }

    def find(self, logger: Any) -> dict[str, Any]:
        """Return the source, ``kind`` 'model', 'file' (with ``values``) or 'learn' (with ``partial``), and log it."""
        name = self.distiller.name
        if self.distiller.has_tokens_of(self.teacher):
            logger.info(f'{name}: tokens from the checkpoint.')
            return {'kind': 'model'}
        values = self.read_known(logger)
        if values is not None:
            return {'kind': 'file', 'values': values}
        partial = None
        if self.partial.is_file():
            partial = {**read_checkpoint(self.partial)['learner'], 'values': self._read(self.partial)}
        start = partial['iteration'] if partial else 0
        logger.info(f'{name}: learning tokens on {self.meta["taps"]} from iteration {start} for {self.final}')
        return {'kind': 'learn', 'partial': partial}

    def read_known(self, logger: Any) -> TokenTensors | None:
        """Read the file or URL of the option ``tokens``, else the learned tokens in the work folder, if any.

        Tokens of another teacher are refused.
        """
        key, source = f'model.distillers.{self.distiller.name}.tokens', self.distiller.tokens
        if source is None:
            if not self.final.is_file():
                return None
            logger.info(f'{self.distiller.name}: tokens from {self.final}')
            return self._read(self.final)
        path = local_file(source, None, key)
        values, meta = read_tokens(path, self.distiller.name)
        if meta.get('unfinished'):
            remedy = 'remove tokens and run again in the same work_dir to finish it'
            raise ValueError(f'{key}={source!r} is unfinished: {remedy}.')
        fingerprint = meta.get('teacher') if isinstance(meta.get('teacher'), str) else None
        if fingerprint is None:
            logger.warning(f'{key}={source!r} does not name the teacher it was learned on, so this was not checked.')
        elif fingerprint != self.teacher and not self.distiller.allow_other_teacher:
            raise ValueError(
                f'{key}={source!r} was learned on another teacher or tap: {fingerprint} ({_origin(meta)}), not '
                f'{self.teacher} ({_origin(self.meta)}). Remove tokens to learn them, or set allow_other_teacher=True.'
            )
        logger.info(f'{self.distiller.name}: tokens from {path}')
        return fit_tokens(values, self.distiller.token_shapes(), f'{key}={source!r}')

    def _read(self, path: Path) -> TokenTensors:
        return fit_tokens(read_tokens(path, self.distiller.name)[0], self.distiller.token_shapes(), repr(str(path)))

    def save_partial(self, learner: TokenLearner) -> None:
        """Write the state of unfinished learning; the main process does."""
        if is_main_process():
            write_tokens(self.partial, learner.values, self.meta, learner=learner.state_dict())

    def finish(self, values: TokenTensors) -> dict[str, Any]:
        """Write the learned tokens and remove the unfinished file."""
        write_tokens(self.final, values, self.meta)
        self.partial.unlink(missing_ok=True)
        return {'kind': 'file', 'values': {name: value.cpu() for name, value in values.items()}}


def token_store_of(distiller: TokenDistiller, runner: Runner) -> TokenStore:
    """Return the token files of a distiller in a run."""
    assert distiller.teacher is not None, 'the model sets it'
    loader = runner.cfg.get('train_dataloader')
    configured = loader.get('dataset') if isinstance(loader, Mapping) else None
    dataset = type(runner.train_dataloader.dataset) if configured is None else configured
    return TokenStore(distiller, distiller.teacher, runner.work_dir, dataset)


def broadcast_from_rank0(function: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Call a function on the main process; return its result, or raise its error, on all processes."""
    outcome: list[Any] = [None, None]
    if is_main_process():
        try:
            outcome[0] = function()
        except Exception as error:  # raised below on all processes, which wait for the outcome
            outcome[1] = error
    broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


def _origin(meta: Mapping[str, Any]) -> str:
    receipt = meta.get('receipt') or {}
    return f'{receipt.get("config")} with {receipt.get("file")}, taps {", ".join(meta.get("taps") or [])}'


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
    tells_sizes: ClassVar[bool] = True
    gate: ClassVar[Gate] = staticmethod(token_gate)

    student_tap, align, resize = 'neck', 'conv', 'student'
    num_tokens: Count = 6
    share_tokens: bool = False
    tokens: str | None = None
    allow_other_teacher: bool = False

    def __init__(self, *taps: TapOption | None, learn: Mapping[str, Any] | None = None, **options: Any) -> None:
        super().__init__(*taps, **options)
        self.learn = LearnOptions.parse(learn or {})
        self.teacher_parts = None if self.tokens is None else ()  # learning runs the whole teacher
        self.gated_taps: list[GatedTap] = []
        self.mask_modules = nn.ModuleList()
        # 0 without tokens, else their teacher's fingerprint as a number (1 if that is unknown)
        self.tokens_ready: Tensor
        self._ready = False  # avoids reading the buffer from the device in every step
        self.register_buffer('tokens_ready', torch.zeros((), dtype=torch.int64))

    def token_module(self, channels: int) -> TokenModule:
        """Return the tokens of a level whose map at the teacher has so many channels."""
        raise NotImplementedError

    def setup(self, student: Shapes, teacher: Shapes) -> None:
        super().setup(student, teacher)
        taps = zip(self.teacher_taps, accumulate(self.counts, initial=0), self.counts, strict=False)
        self.gated_taps = [GatedTap(*tap_levels, type(self).gate) for tap_levels in taps]
        if self.share_tokens:
            del self.gated_taps[1:]
            channels = [level.teacher[0] for level in self.levels]
            if len(set(self.counts)) > 1 or channels != channels[: self.counts[0]] * len(self.counts):
                layout = f'{", ".join(map(str, self.teacher_taps))} have {self.counts} levels of {channels} channels'
                problem = f'{self.key}.share_tokens=True needs the same levels and channels in each tap'
                raise ValueError(f'{problem}; {layout}.')
        for level in self.levels[: self.gated_taps[-1].start + self.gated_taps[-1].count]:
            self.mask_modules.append(self.token_module(level.teacher[0]))

    def prepare(self, runner: Runner, teacher: FrozenTeacher) -> None:
        """Load or learn the tokens; all processes of a run call it together before the first iteration.

        The main process takes the first source that applies: the model has tokens (resumed); ``tokens`` names a file;
        the work folder holds finished ones with the same fingerprint; they are learned, from the last unfinished state
        in the work folder or from the beginning.
        """
        store = token_store_of(self, runner)
        source = broadcast_from_rank0(lambda: store.find(runner.logger))
        if source['kind'] == 'model':
            return
        if source['kind'] == 'learn':
            task = TokenTask(self.name, teacher, self.gated_taps, self.token_shapes(), self.learn)
            values = learn_distiller_tokens(task, runner, source['partial'], store.save_partial)
            source = broadcast_from_rank0(lambda: store.finish(values))
        self.load_tokens(source['values'], store.teacher)

    def token_shapes(self) -> dict[str, torch.Size]:
        """Return the shapes of tokens and branches, by their names in token files."""
        return {name: value.shape for name, value in self.mask_modules.state_dict().items()}

    def load_tokens(self, values: TokenTensors, teacher: str | None = None) -> None:
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
    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer('weight', torch.zeros(shape))
        self.register_buffer('bias', torch.zeros(shape[0]))
