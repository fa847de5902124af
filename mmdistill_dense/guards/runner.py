"""Checks of a runner before the first iteration: loaders, options of its checkpoint hook, weights that it loads."""

import inspect
import logging
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from mmengine.hooks import CheckpointHook
from mmengine.logging import print_log
from mmengine.model import BaseTTAModel
from mmengine.runner import EpochBasedTrainLoop, Runner, find_latest_checkpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mmdistill_dense.config.unknown_keys import hint
from mmdistill_dense.config.values import listed
from mmdistill_dense.utils.distributed import unwrap
from mmdistill_dense.utils.runner_internals import AUXILIARY, built_loop, resumes, start_file, wrappers_of
from mmdistill_dense.utils.validate import some
from mmdistill_dense.weights.strict_load import match_names, prefix_of, warn_of_averages

NEEDED = ('save_optimizer', 'save_param_scheduler')  # options of CheckpointHook without which no run goes on


def check_loaders(runner: Runner) -> None:
    """Refuse a set without a picture, for which mmengine waits forever, and epochs without a batch."""
    for name, loop in ((name, built_loop(runner, name)) for name in ('train', 'val')):
        loader: DataLoader | None = getattr(loop, 'dataloader', None)
        if loader is None or not hasattr(loader.dataset, '__len__'):
            continue
        count = len(loader.dataset)
        if count == 0:
            raise ValueError(f'{name}_dataloader.dataset holds no picture: check folders, ann_file and filter_cfg.')
        if isinstance(loop, EpochBasedTrainLoop) and len(loader) == 0:
            problem = f'with drop_last=True, its {count} pictures do not fill a batch on each process'
            raise ValueError(f'{name}_dataloader gives no batch: {problem}. Lower batch_size, or set drop_last=False.')


def check_checkpoints(runner: Runner) -> None:
    """Refuse a misspelt option of the checkpoint hook, let it keep two files, warn of files from within an epoch.

    mmengine finds a misspelt option only at the first save. It removes the oldest file before it writes the next: with
    ``max_keep_ckpts=1``, a full disk or a kill at that moment leaves none.
    """
    for hook in runner.hooks:
        if not isinstance(hook, CheckpointHook):
            continue
        save_options = set(inspect.signature(Runner.save_checkpoint).parameters)
        names = save_options | set(inspect.signature(CheckpointHook.__init__).parameters)
        for name in set(hook.args) - save_options:
            raise ValueError(f'default_hooks.checkpoint.{name} is not an option of CheckpointHook.{hint(name, names)}')
        for name in NEEDED:
            if not getattr(hook, name):
                problem = 'no run can go on from its checkpoints, but for one that a signal saved.'
                runner.logger.warning(f'default_hooks.checkpoint.{name}=False: {problem}')
        if not hook.by_epoch and isinstance(built_loop(runner), EpochBasedTrainLoop):
            runner.logger.warning(
                'CheckpointHook.by_epoch=False saves within an epoch, which a resumed run begins again, so its result '
                'is another: set default_hooks.checkpoint.by_epoch=True, with interval in epochs.'
            )
        if hook.max_keep_ckpts == 1:
            hook.max_keep_ckpts = 2
            runner.logger.warning(
                'CheckpointHook.max_keep_ckpts=1 removes the last checkpoint before it writes the next: 2 are kept.'
            )


def check_loaded(runner: Runner, content: Mapping[str, Any]) -> None:
    """Check the file that a run starts with or goes on from, and log what is doubtful."""
    file, model = start_file(runner), unwrap(runner.model)
    key = f'load_from={file!r}' if file else str(find_latest_checkpoint(runner.work_dir))
    model = model.module if isinstance(model, BaseTTAModel) else model
    for problem in check_file(model, content, key, resumes(runner), tests=built_loop(runner) is None):
        print_log(problem, 'current', logging.WARNING)


def check_file(model: nn.Module, content: Any, file: str, goes_on: bool = False, tests: bool = False) -> Iterator[str]:
    """Refuse a checkpoint of another network; mmengine would load what fits, warn, and go on.

    A run that resumes needs every tensor. A test needs half of them, because layers rename those of older files, none
    of another shape, and one of each part that predicts. A start by ``load_from`` needs half, because a head may be
    new, or the whole backbone, which is less than half in many detectors. Yielded are sentences about the rest.
    """
    if not isinstance(content, Mapping):
        return  # mmengine refuses that itself
    whole = {name: value.shape for name, value in model.state_dict().items()}
    target = {name: shape for name, shape in whole.items() if not name.endswith('num_batches_tracked')}
    state: Any = content.get('state_dict', content)  # where mmengine looks
    names = {name: name for name, entry in state.items() if isinstance(name, str) and isinstance(entry, Tensor)}
    for own_name, name in match_names(whole, names).items():
        state[own_name] = state.pop(name)  # of a network that is compiled in parts
    warn_of_averages(content, file)
    source = {name: entry.shape for name, entry in state.items() if isinstance(entry, Tensor)}
    missing = [name for name in target if name not in source]
    shaped = [name for name, shape in target.items() if name in source and source[name] != shape]
    fits = len(target) - len(missing + shaped)
    backbone = {name for name in target if name.startswith('backbone.')}
    starts = not goes_on and not tests and backbone and backbone.isdisjoint(missing + shaped)
    too_few = 2 * fits < len(target) and not starts
    if (goes_on and missing) or (shaped and (goes_on or tests)) or too_few:
        if not (goes_on or fits):
            raise ValueError(_nothing_fits(file, type(model).__name__, target, source or content))
        key = 'The checkpoint to resume' if goes_on else file
        words = [f'{name} {tuple(source[name])} (model {tuple(target[name])})' for name in shaped]
        raise ValueError(
            f'{key} fits {fits} of the {len(target)} tensors of {type(model).__name__}: it is of another network or '
            f'class list. Missing or of another shape: {some(words + missing)}; the file holds {some(source)}.'
        )
    if tests and (parts := some(_left_random(target, source))):
        raise ValueError(f'{file} holds nothing of {parts}: random weights would be tested.')
    # a layer of an older file has another name there, which is unknown
    weights = {name for name, _ in model.named_parameters() if not name.startswith(('distillers.', AUXILIARY))}
    names_match = all(name in target or name.endswith('num_batches_tracked') for name in source)
    if (absent := [name for name in missing if name in weights]) and names_match and not goes_on:
        problem = f'{file} lacks {len(absent)} of {len(weights)} weights: {some(absent)}'
        if tests and any(name.startswith(('backbone.', 'neck.')) for name in absent):  # a head's may be for training
            raise ValueError(f'{problem}. They are random: give the file of this network.')
        yield f'{problem}. They keep their first values.'


def check_trained(runner: Runner, distillers: nn.Module) -> None:
    """Refuse an optimizer that leaves parameters of distillers out: they would stay as random as they began.

    mmengine's constructors take all parameters of a model; one of your own, or one of several optimizers, may not.
    """
    groups = [group for wrapper in wrappers_of(runner.optim_wrapper) for group in wrapper.param_groups]
    ids = {id(parameter) for group in groups for parameter in group['params']}
    parameters = distillers.named_parameters()
    if missing := [name for name, parameter in parameters if parameter.requires_grad and id(parameter) not in ids]:
        problem = f'its constructor leaves out parameters of distillers: {some(missing)}'
        raise ValueError(f'optim_wrapper: {problem}. Let it take those whose names begin with "distillers." as well.')


def check_recomputed(runner: Runner, model: nn.Module) -> None:
    """Refuse to recompute the part that sees the pictures: torch's way gives it a gradient only through its inputs."""
    modules = {name for name, _ in model.named_modules()}
    first_name = next((name for name, parameter in model.named_parameters() if parameter.requires_grad), '')
    for name in listed(runner.cfg.get('activation_checkpointing')):
        if name not in modules:
            raise ValueError(f'activation_checkpointing: {name!r} is no module of the student.{hint(name, modules)}')
        if first_name.startswith(f'{name}.'):
            problem = f'{name!r} sees the pictures, or frozen layers alone, so it would get no gradient'
            remedy = 'name later stages, or set with_cp=True in model.student.backbone'
            raise ValueError(f'activation_checkpointing: {problem}: {remedy}.')


class Reached:
    """Notes which parameters of a student get a gradient in a step, for one that learns from distillers alone."""

    def __init__(self, model: nn.Module) -> None:
        self._unseen = {name: p for name, p in model.named_parameters() if not name.startswith('distillers.')}
        trained = [(name, p) for name, p in self._unseen.items() if p.requires_grad]
        self._handles = [p.register_hook(partial(self._see, name)) for name, p in trained]

    def _see(self, name: str, gradient: Tensor) -> None:
        self._unseen.pop(name, None)

    def warning(self) -> str | None:
        """Return a warning after the first step; ``None`` if all were seen."""
        while self._handles:
            self._handles.pop().remove()
        if not self._unseen:
            return None
        return (
            f'model.student: {len(self._unseen)} parameters get no gradient: {some(self._unseen)}. If frozen, set '
            'frozen_stages=-1; behind the last student_tap, tap backbone[-1] too or end it there (num_stages).'
        )


def _nothing_fits(file: str, network: str, names: Iterable[str], state: Mapping[str, Any]) -> str:
    below_model = isinstance(state.get('model'), Mapping)
    reason = 'its tensors are below `model`, where mmengine does not look' if below_model else 'none of its names fits'
    if prefix := prefix_of(state, [name for name in names if not name.startswith('distillers.')]):
        reason = f'all of them fit without the prefix {prefix!r}: cut it'
    return (
        f'{file}: no tensor would be loaded into {network}: {reason}. It holds '
        f'{some(state["model"] if below_model else state)}: save them as {{"state_dict": …}} named like {some(names)}.'
    )


def _left_random(target: Mapping[str, Any], source: Mapping[str, Any]) -> list[str]:
    """Return the parts that predict and of which a file holds nothing; both give the shapes of tensors by name."""
    suffixes = {(name.partition('.')[2], shape) for name, shape in source.items()}
    parts: dict[str, dict[str, Any]] = {}
    for name, shape in target.items():
        parts.setdefault(name.partition('.')[0], {})[name] = shape
    return [
        f'{part} ({len(shapes)} tensors)'
        for part, shapes in parts.items()
        if part not in (AUXILIARY.rstrip('.'), 'distillers')
        and source.keys().isdisjoint(shapes)
        # mmdet loads the rpn_head of a file as the bbox_head of a network
        and not {(name.partition('.')[2], shape) for name, shape in shapes.items()} <= suffixes
    ]
