"""Tell the distillers how far the run is, prepare them, and keep their state in checkpoints."""

from __future__ import annotations

from typing import Any

from mmengine.dist import broadcast_object_list, get_rank
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from mmdistill_dense.engine.averaging import average_the_student, place_distillers
from mmdistill_dense.engine.run_identity import describe, differ, identity
from mmdistill_dense.model.distill_model import Distilled
from mmdistill_dense.utils.distributed import unwrap
from mmdistill_dense.utils.runner_internals import resumes, start_file, wrappers_of


class DistillerState(Hook):
    """Updates and saves the state of the distillers; has no effect on a model without any.

    Args:
        resume_changed: Resume although teacher or distillers differ from those of the checkpoint.
    """

    def __init__(self, resume_changed: bool = False) -> None:
        self.resume_changed = resume_changed

    def before_run(self, runner: Runner) -> None:
        """Move the distillers to their device; inherit nothing if the weights come from a file."""
        model = unwrap(runner.model)
        if isinstance(model, Distilled):
            place_distillers(runner, model)
            if start_file(runner) and not resumes(runner):  # a resumed run still needs the teacher's receipt
                model.distillation.inherit_nothing()

    def before_train(self, runner: Runner) -> None:
        """Set the state of the run and prepare the distillers."""
        model = unwrap(runner.model)
        if not isinstance(model, Distilled):
            return
        seeds = [runner.seed]
        broadcast_object_list(seeds)  # randomness.diff_rank_seed gives each process its own; ours add the rank
        model.distillation.enter_run(runner.max_iters, seeds[0], get_rank(), runner.iter)
        average_the_student(runner)
        for distiller in model.distillers.values():
            assert distiller.teacher is not None, 'bound when the model was built'
            distiller.prepare(runner, distiller.teacher)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Update the iteration."""
        model = unwrap(runner.model)
        if isinstance(model, Distilled):
            model.distillation.state.iteration = runner.iter

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Add the teachers' receipts, and the distillers' state if a run can resume from the file."""
        model = unwrap(runner.model)
        if isinstance(model, Distilled):
            checkpoint['meta']['distill'] = identity(model)
            if 'optimizer' in checkpoint:
                checkpoint['distillers'] = {name: value.cpu() for name, value in model.distillers.state_dict().items()}

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """On resume, compare teacher and distillers with the checkpoint's and restore the distillers' state."""
        if not resumes(runner):
            return
        model = unwrap(runner.model)
        now = identity(model) if isinstance(model, Distilled) else {}
        then = checkpoint.get('meta', {}).get('distill') or {}
        changed = differ(then, now)
        if changed and not self.resume_changed:
            raise ValueError(
                'This run and the checkpoint to resume differ in teachers or distillers, or in their pictures without '
                'labels.\n'
                f'  checkpoint: {describe(then)}\n  this run:   {describe(now)}\n'
                'Resume with the same teacher, distillers and pictures, start a new run from these weights with '
                'load_from=…, or set default_hooks.distill.resume_changed=True.'
            )
        if isinstance(model, Distilled):
            _put_in_order(runner, model, list(then.get('distillers', ())))
            state = checkpoint.get('distillers', {})
            own = model.distillers.state_dict()
            fits = {name: value for name, value in state.items() if name in own and own[name].shape == value.shape}
            model.distillers.load_state_dict(fits if changed else state, strict=not changed)
        if changed and then.get('distillers') != now.get('distillers') and 'optimizer' in checkpoint:
            _fit_optimizer(checkpoint['optimizer'], runner, model)


def _put_in_order(runner: Runner, model: Distilled, names: list[str]) -> None:
    """Put the distillers in the order that they had in a checkpoint: the optimizer's state goes by position."""
    if sorted(names) != sorted(model.distillers) or names == list(model.distillers):
        return
    for name in names:
        model.distillers[name] = model.distillers.pop(name)
    place = {parameter: number for number, parameter in enumerate(model.parameters())}
    for wrapper in wrappers_of(runner.optim_wrapper):
        groups = wrapper.optimizer.param_groups
        for group in groups:
            group['params'].sort(key=place.__getitem__)
        groups.sort(key=lambda group: [place[first] for first in group['params'][:1]])
    runner.logger.info(f'The distillers stay in the order of the checkpoint: {", ".join(names)}.')


def _fit_optimizer(saved: dict[str, Any], runner: Runner, model: nn.Module) -> None:
    """Keep only the student's part of a saved optimizer state, since the distillers have changed."""
    groups = runner.optim_wrapper.state_dict().get('param_groups', [])
    if len(groups) != 1 or len(saved.get('param_groups', [])) != 1:
        raise ValueError(
            'resume_changed=True cannot adapt the optimizer to other distillers if it has several parameter groups '
            '(paramwise_cfg): start a new run from these weights with load_from=….'
        )
    students = sum(not name.startswith('distillers.') for name, _ in model.named_parameters())
    saved['param_groups'][0]['params'] = groups[0]['params']
    saved['state'] = {index: state for index, state in saved['state'].items() if index < students}
