"""Keep the state of mmengine's ``EarlyStoppingHook`` in checkpoints, so that a resumed run ends where it would have."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import EarlyStoppingHook, Hook
from mmengine.runner import Runner

from mmdistill_dense.utils.runner_internals import resumes

_KEY = 'early_stopping'  # in the meta of a checkpoint


class EarlyStopping(Hook):
    """Saves and restores the best score and the number of validations since; has no effect on a run without the hook.

    mmengine keeps both in the hook alone: a resumed run would begin to wait anew.
    """

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Add the state of each such hook."""
        hooks = _hooks(runner)
        if hooks:
            checkpoint['meta'][_KEY] = [(one.monitor, int(one.wait_count), float(one.best_score)) for one in hooks]

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Restore the state when a run resumes. A hook that watches another score starts without it."""
        saved = (checkpoint.get('meta') or {}).get(_KEY, ()) if resumes(runner) else ()
        for hook, (monitor, count, best) in zip(_hooks(runner), saved, strict=False):
            if hook.monitor == monitor:
                hook.wait_count, hook.best_score = count, best


def _hooks(runner: Runner) -> list[EarlyStoppingHook]:
    return [hook for hook in runner.hooks if isinstance(hook, EarlyStoppingHook)]
