"""Token files: fingerprints, reading and writing, and the tokens of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from mmengine.dist import broadcast_object_list, is_main_process

from mmdistill_dense.distillers.maskd.gated_teacher import GatedTap
from mmdistill_dense.distillers.maskd.learning import LearnOptions, Task, TokenLearner, learn_tokens
from mmdistill_dense.distillers.maskd.token_files import (
    Values,
    fit_tokens,
    learning_fingerprint,
    read_tokens,
    teacher_fingerprint,
    write_tokens,
)
from mmdistill_dense.weights.strict_load import local_file, read_checkpoint

if TYPE_CHECKING:
    from mmengine.runner import Runner

    from mmdistill_dense.networks.teacher import FrozenTeacher


FOLDER = 'maskd_tokens'


class TokenHolder(Protocol):
    """The interface of a distiller with tokens."""

    name: str
    teacher: FrozenTeacher | None
    tokens: str | None
    allow_other_teacher: bool
    learn: LearnOptions
    gated_taps: list[GatedTap]

    def token_shapes(self) -> dict[str, torch.Size]: ...
    def has_tokens_of(self, teacher: str) -> bool: ...
    def load_tokens(self, values: Values, teacher: str | None = None) -> None: ...


def prepare_tokens(distiller: TokenHolder, runner: Runner, teacher: FrozenTeacher) -> None:
    """Load or learn the tokens of a distiller; all processes of a run call it together before the first iteration.

    The main process takes the first source that applies: the model has tokens (resumed); ``tokens`` names a file; the
    work folder holds finished ones with the same fingerprint; they are learned, from the last unfinished state in the
    work folder or from the beginning.
    """
    places = places_of(distiller, runner)
    found = on_main(lambda: places.find(runner.logger))
    if found['kind'] == 'model':
        return
    if found['kind'] == 'learn':
        task = Task(distiller.name, teacher, distiller.gated_taps, distiller.token_shapes(), distiller.learn)
        save = places.save_partial if is_main_process() else lambda learner: None
        values = learn_tokens(task, runner, found['partial'], save)
        found = on_main(lambda: places.finish(values))
    distiller.load_tokens(found['values'], places.teacher)


class Places:
    """The token files of one distiller, and the fingerprints that identify their teacher.

    Args:
        distiller: A distiller after :meth:`setup`.
        teacher: Its loaded teacher.
        work_dir: Folder of the run.
        dataset: Config of the training set.
    """

    def __init__(self, distiller: TokenHolder, teacher: FrozenTeacher, work_dir: str | Path, dataset: Any) -> None:
        self.distiller = distiller
        taps = [one.tap for one in distiller.gated_taps]
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
        values = self.read_known(self.distiller.tokens, logger)
        if values is not None:
            return {'kind': 'file', 'values': values}
        partial = self._read_partial() if self.partial.is_file() else None
        start = partial['iteration'] if partial else 0
        logger.info(f'{name}: learning tokens on {self.meta["taps"]} from iteration {start} for {self.final}')
        return {'kind': 'learn', 'partial': partial}

    def read_known(self, given: str | None, logger: Any) -> Values | None:
        """Read the file or URL of the option ``tokens``, else the learned tokens in the work folder, if any."""
        if given is not None:
            return self._read_given(given, logger)
        if not self.final.is_file():
            return None
        logger.info(f'{self.distiller.name}: tokens from {self.final}')
        return self._read(self.final)

    def _read_given(self, given: str, logger: Any) -> Values:
        """Read the file or URL of the option ``tokens``; refuse tokens of another teacher."""
        key = f'model.distillers.{self.distiller.name}.tokens'
        path = local_file(given, None, key)
        values, meta = read_tokens(path, self.distiller.name)
        if meta.get('unfinished'):
            raise ValueError(
                f'{key}={given!r} is the state of unfinished learning: remove tokens and run again in the same '
                'work_dir to finish it, then give the file without .partial.'
            )
        theirs = meta.get('teacher') if isinstance(meta.get('teacher'), str) else None
        if theirs is None:
            logger.warning(f'{key}={given!r} does not name the teacher it was learned on, so this was not checked.')
        elif theirs != self.teacher and not self.distiller.allow_other_teacher:
            raise ValueError(
                f'{key}={given!r} was learned on another teacher or tap: fingerprint {theirs} '
                f'({_origin(meta)}), but this run has {self.teacher} ({_origin(self.meta)}). Remove tokens to learn '
                'them, or set allow_other_teacher=True.'
            )
        logger.info(f'{self.distiller.name}: tokens from {path}')
        return fit_tokens(values, self.distiller.token_shapes(), f'{key}={given!r}')

    def _read(self, path: Path) -> Values:
        return fit_tokens(read_tokens(path, self.distiller.name)[0], self.distiller.token_shapes(), repr(str(path)))

    def save_partial(self, learner: TokenLearner) -> None:
        """Write the state of unfinished learning."""
        write_tokens(self.partial, learner.values, self.meta, learner=learner.state_dict())

    def finish(self, values: Values) -> dict[str, Any]:
        """Write the learned tokens and remove the unfinished file."""
        write_tokens(self.final, values, self.meta)
        self.partial.unlink(missing_ok=True)
        return {'kind': 'file', 'values': {name: value.cpu() for name, value in values.items()}}

    def _read_partial(self) -> dict[str, Any]:
        return {**read_checkpoint(self.partial)['learner'], 'values': self._read(self.partial)}


def places_of(distiller: TokenHolder, runner: Runner) -> Places:
    """Return the token files of a distiller in a run."""
    assert distiller.teacher is not None, 'the model sets it'
    loader = runner.cfg.get('train_dataloader')
    configured = loader.get('dataset') if isinstance(loader, Mapping) else None
    dataset = type(runner.train_dataloader.dataset) if configured is None else configured
    return Places(distiller, distiller.teacher, runner.work_dir, dataset)


def on_main(function: Callable[[], dict[str, Any]]) -> dict[str, Any]:
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
