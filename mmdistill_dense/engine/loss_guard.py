"""Stop a run at a loss that is not finite, and clip the gradients of distillers."""

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from mmengine.dist import all_gather_object, all_reduce
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from mmdistill_dense.distillers.base import Distiller
from mmdistill_dense.engine.interruption import Interruption
from mmdistill_dense.losses.tensors import sum_dtype
from mmdistill_dense.model.distill_model import Distilled, distillers_of
from mmdistill_dense.utils.distributed import unwrap
from mmdistill_dense.utils.runner_internals import Samples, wrappers_of
from mmdistill_dense.utils.validate import some

Inputs = Tensor | Sequence[Tensor] | None
Seen = tuple[Mapping[str, Sequence[Tensor]], Inputs, Samples | None]  # losses, pictures, labels


class LossGuard(Hook):
    """Stops a run at a loss that is not finite, all processes alike, before any weight changes.

    It checks the loss, not the gradients: in mixed precision, an overflow of the scaled gradients is normal, and the
    scaler handles it. No step waits for the device: the result travels to the CPU while the backward pass is launched
    and is read after that. So do the numbers of the log, which mmengine would fetch one by one behind the whole step,
    and a signal that one of several processes got. With several optimizers, each loss is checked.
    """

    def __init__(self) -> None:
        self._seen: Seen | None = None
        self._log: dict[str, Any] = {}
        self._verdict: _Verdict | None = None
        self._interruption: Interruption | None = None
        self._handles: list[RemovableHandle] = []

    def before_train(self, runner: Runner) -> None:
        model: Any = unwrap(runner.model)
        self._interruption = next((hook for hook in runner.hooks if isinstance(hook, Interruption)), None)
        self._handles.append(model.register_forward_hook(self._remember, with_kwargs=True))
        # Replaced on the instance: after_train deletes that, and the method of the class is back.
        if hasattr(model, 'parse_losses'):
            model.parse_losses = partial(self._parse, model.parse_losses)
        runner.model.train_step = partial(self._step, runner.model.train_step)
        for wrapper in wrappers_of(runner.optim_wrapper):
            wrapper.backward = partial(self._backward, runner, wrapper.backward)

    def after_train(self, runner: Runner) -> None:
        while self._handles:
            self._handles.pop().remove()
        vars(unwrap(runner.model)).pop('parse_losses', None)
        vars(runner.model).pop('train_step', None)
        for wrapper in wrappers_of(runner.optim_wrapper):
            vars(wrapper).pop('backward', None)
        self._seen, self._log, self._verdict = None, {}, None

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        check_saved(checkpoint, unwrap(runner.model))

    def _remember(self, model: nn.Module, _: Any, kwargs: Mapping[str, Any], losses: Any) -> None:
        if isinstance(losses, Mapping):
            parts = {name: [tensor.detach() for tensor in _tensors(value)] for name, value in losses.items()}
            self._seen = parts, kwargs.get('inputs'), kwargs.get('data_samples')

    def _parse(self, parse: Any, *args: Any, **kwargs: Any) -> Any:
        output = parse(*args, **kwargs)
        self._log = next((part for part in output if isinstance(part, dict)), {}) if isinstance(output, tuple) else {}
        return output

    def _step(self, step: Any, *args: Any, **kwargs: Any) -> Any:
        log = step(*args, **kwargs)
        if self._verdict is not None and log is self._log:
            log.update(self._verdict.numbers())
        self._verdict, self._log = None, {}
        return log

    def _backward(self, runner: Runner, backward: Any, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        hook = self._interruption
        self._verdict = verdict = _Verdict(loss, self._log, hook.number if hook else 0)
        backward(loss, *args, **kwargs)
        if verdict.bad():
            record, self._seen = self._seen, None
            reasons_of_ranks = torch.compiler.disable(all_gather_object)(_reasons(runner, record))
            reasons = dict.fromkeys(reason for rank_reasons in reasons_of_ranks for reason in rank_reasons)
            raise RuntimeError(
                f'Iteration {runner.iter + 1}: the loss is not finite, and the step was not taken. '
                f'{" ".join(reasons) or "Each loss is finite, but their sum is not."} Earlier checkpoints are whole. '
                'Usual reasons: a high learning rate or loss_weight, a damaged teacher, half precision that overflows.'
            )
        if hook:
            hook.asked, hook.agreed = True, hook.agreed or verdict.signal()
        self._seen = None


def check_saved(checkpoint: Mapping[str, Any], model: nn.Module) -> None:
    """Refuse to save weights that are not finite, since gradients may overflow although the loss is finite."""
    state = {**checkpoint.get('state_dict', {}), **checkpoint.get('distillers', {})}
    # Buffers may hold infinity on purpose, for instance attention masks.
    masks = {name.removeprefix('distillers.') for name, _ in model.named_buffers() if 'running_' not in name}
    if names := [name for name, value in state.items() if not (_number if name in masks else _finite)(value)]:
        problem = f'After iteration {checkpoint["meta"]["iter"]} the weights are not finite ({some(names)})'
        remedy = 'Lower the learning rate, or clip the gradients (optim_wrapper.clip_grad)'
        raise RuntimeError(f'{problem}, so no checkpoint is written. {remedy}.')


_BAD = 1000.0  # above all numbers of signals


class _Verdict:
    """Whether the loss of any process is not finite; the answer is copied to the CPU without waiting, with the log."""

    def __init__(self, loss: Tensor, log: Mapping[str, Any], signal: int = 0) -> None:
        loss = torch.as_tensor(loss).detach()
        flag = loss.isfinite().all().logical_not().to(sum_dtype(loss)) * _BAD + signal
        all_reduce(flag, op='max')
        numbers = {k: x for k, x in log.items() if isinstance(x, Tensor) and not x.ndim and x.device == flag.device}
        row = torch.stack([flag, *[x.detach().to(flag.dtype) for x in numbers.values()]])
        # From a GPU, this copies into pinned memory, which holds the numbers once the event has happened.
        self._row = row.to('cpu', non_blocking=row.is_cuda)
        self._arrived = torch.cuda.current_stream(row.device).record_event() if row.is_cuda else None
        self._names = list(numbers)

    def bad(self) -> bool:
        if self._arrived is not None:
            self._arrived.synchronize()
        return bool(self._row[0] >= _BAD)

    def signal(self) -> int:
        """Return the signal that any process has got, once :meth:`bad` was asked and said no."""
        return int(self._row[0])

    def numbers(self) -> dict[str, Tensor]:
        """Return the log's numbers, on the CPU; once :meth:`bad` was asked, they are there."""
        return dict(zip(self._names, self._row[1:], strict=True))


def _reasons(runner: Runner, record: Seen | None) -> list[str]:
    """Return sentences that say which loss is not finite on this process, and possible reasons."""
    losses, inputs, samples = record or ({}, None, None)
    values = {name: sum(float(tensor.mean()) for tensor in parts) for name, parts in losses.items() if 'loss' in name}
    terms = [f'{name} is {value}' for name, value in values.items() if not math.isfinite(value)]
    if not terms:
        return []
    sentences = [f'{", ".join(terms)}.']
    model = unwrap(runner.model)
    batches, paths = [inputs], [('Pictures', _paths(samples))]
    for extra in model.distillation.extras if isinstance(model, Distilled) else ():
        for title, batch, extra_samples in extra.seen(model):
            batches.append(batch)
            paths.append((title, _paths(extra_samples)))
    if not all(_finite(picture) for batch in batches for picture in _tensors(batch)):
        sentences.append('The pictures themselves hold values that are not finite.')
    if weights := [name for name, value in model.named_parameters() if not _finite(value)]:
        sentences.append(f'Weights are not finite since an earlier step: {some(weights)}.')
    with wrappers_of(runner.optim_wrapper)[0].optim_context(runner.model):
        sentences += dict.fromkeys(reason for batch in batches for reason in _teachers(model, batch))
    return [*sentences, *(f'{name}: {some(files)}.' for name, files in paths if files)]


def _paths(samples: Samples | None) -> list[str]:
    return [str(path) for path in (getattr(sample, 'img_path', None) for sample in samples or ()) if path]


def _teachers(model: nn.Module, inputs: Inputs) -> Iterator[str]:
    for teacher in model.distillation.teachers.values() if isinstance(model, Distilled) else ():
        maps = {} if teacher.network is None or inputs is None else teacher(inputs)
        if taps := [tap for tap, tensors in maps.items() if not all(map(_finite, tensors))]:
            yield f'{teacher.key} gives values that are not finite at {some(taps)}.'


def _finite(value: Tensor) -> bool:
    return not value.is_floating_point() or bool(value.detach().isfinite().all())


def _number(value: Tensor) -> bool:
    return not value.is_floating_point() or not bool(value.isnan().any())


def _tensors(value: Any) -> list[Tensor]:
    members = value if isinstance(value, (list, tuple)) else [value]
    return [member for member in members if isinstance(member, Tensor)]


class Clipping(Hook):
    """Clips when the optimizer begins its step, so after gradient accumulation and the user's clipping."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], Any]] = []

    def before_train(self, runner: Runner) -> None:
        self.after_train(runner)  # remove the hooks of a training that was interrupted
        distillers = distillers_of(unwrap(runner.model))
        wrappers = wrappers_of(runner.optim_wrapper)
        for name, distiller in distillers.items():
            trains = any(parameter.requires_grad for parameter in distiller.parameters())
            if distiller.clip_max_norm is not None and trains:
                wrapper = _holder(name, distiller, wrappers)
                clip = partial(_clip, runner, name, distiller)
                self._undo.append(wrapper.optimizer.register_step_pre_hook(clip).remove)
        ids = {id(parameter) for distiller in distillers.values() for parameter in distiller.parameters()}
        for wrapper in (candidate for candidate in wrappers if candidate.clip_grad_kwargs):
            if all(id(parameter) in ids for group in wrapper.param_groups for parameter in group['params']):
                continue  # an optimizer of distillers alone: the limit was set for them
            # It clips all parameters together; a large distiller gradient must not shrink the student's.
            self._undo.append(partial(setattr, wrapper, 'clip_func', wrapper.clip_func))
            wrapper.clip_func = partial(_clip_students, wrapper.clip_func, ids)

    def after_train(self, runner: Runner) -> None:
        while self._undo:
            self._undo.pop()()


def _holder(name: str, distiller: Distiller, wrappers: Sequence[OptimWrapper]) -> OptimWrapper:
    key = f'model.distillers.{name}.clip_max_norm'
    ids = {id(parameter) for parameter in distiller.parameters()}
    holders = [opt for opt in wrappers if any(id(p) in ids for group in opt.param_groups for p in group['params'])]
    if len(holders) != 1:
        raise ValueError(f'{key} is for parameters of one optimizer, but {len(holders)} train them: set it to None.')
    (wrapper,) = holders
    if hasattr(wrapper, 'loss_scaler') and 'grad_scaler' in inspect.signature(wrapper.optimizer.step).parameters:
        problem = f'{type(wrapper.optimizer).__name__}.step uses the scaler of mixed precision itself'
        raise ValueError(f'{key}: {problem}, so the scale is unknown: set it to None, or use an optimizer of torch.')
    return wrapper


def clip_unscaled(distiller: Distiller, optimizer: Optimizer) -> Tensor | None:
    """Clip the gradients of a distiller by their norm without the loss scale."""
    # A GradScaler sets these attributes on a fused optimizer, which unscales the gradients and skips steps with
    # infinite ones by itself. The scale is None if the gradients were unscaled for the user's clipping.
    scale, infinite = (getattr(optimizer, attribute, None) for attribute in ('grad_scale', 'found_inf'))
    if infinite is not None and infinite:
        return None
    return distiller.clip_gradients(1.0 if scale is None else scale)


def _clip(runner: Runner, name: str, distiller: Distiller, optimizer: Optimizer, *_: Any) -> None:
    norm = clip_unscaled(distiller, optimizer)
    if norm is not None:
        runner.message_hub.update_scalar(f'train/distill.{name}.grad_norm', norm)


def _clip_students(clip: Callable[..., Any], ids: set[int], parameters: Sequence[Tensor], **options: Any) -> Any:
    return clip([parameter for parameter in parameters if id(parameter) not in ids], **options)
