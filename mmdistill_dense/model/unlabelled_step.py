"""The part of a training step on pictures without labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from mmengine.structures import InstanceData
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from mmdistill_dense.distillers.base import Distiller, Losses, RunState
from mmdistill_dense.model.distillation import Distillation
from mmdistill_dense.model.pseudo_labels import label_pictures, pseudo_losses
from mmdistill_dense.model.step import Terms, compare, recording, teach
from mmdistill_dense.model.unlabelled import Unlabelled
from mmdistill_dense.networks.partial_forward import run_parts
from mmdistill_dense.utils.protocols import Network, Samples
from mmdistill_dense.utils.random_streams import fork_rng, mix, seed_everything

PART = 'unlabelled'
_TAG = 4  # of the random numbers of this part; other modules use the lower ones


def with_unlabelled(
    model: Network,
    distillation: Distillation,
    distillers: Mapping[str, Distiller],
    terms: Terms,
    labelled: int,
    task: Callable[..., Mapping[str, Any]],
) -> tuple[Terms, dict[str, Any]]:
    """Add the terms of the pictures without labels to those of the labelled ones.

    Of ``n`` labelled pictures and ``m`` without labels, which count ``weight`` each, the terms of a distiller get the
    factors ``n / (n + weight m)`` and ``weight m / (n + weight m)``. So the strength of the distillation does not
    depend on ``ratio``. A distiller that needs labels keeps its terms as they are.

    Args:
        model: The student with its distillers, in training mode.
        distillation: Its ``unlabelled.batch`` holds the pictures.
        distillers: By name.
        terms: Of the labelled pictures, without weight.
        labelled: The number of labelled pictures.
        task: The loss of the student's own class, for labels of the teacher.

    Returns:
        The terms; those of the second part are called ``unlabelled_…``. Without such pictures in this step, and where
        no distiller that takes them is active, these are ``terms``. Then the student's own losses on labels of the
        teacher, as ``unlabelled.…``; none without the option ``pseudo``.
    """
    second = distillation.unlabelled
    if second is None or second.batch is None:
        return terms, {}
    takers = {name: one for name, one in distillers.items() if name in second.takers and one.is_active()}
    if not takers and second.option.pseudo is None:
        return terms, {}
    found, pseudo = _unlabelled_terms(model, distillation, takers, second, task)
    count = second.option.weight * len(second.batch['inputs'])
    share = count / (labelled + count)
    added = {name: {**_times(1 - share, terms[name]), **_times(share, own, f'{PART}_')} for name, own in found.items()}
    return {**terms, **added}, {f'{PART}.{name}': value for name, value in pseudo.items()}


def prepared(model: Network, batch: Mapping[str, Any]) -> tuple[Tensor, Samples]:
    """Return the student's preprocessed pictures and their samples, with the padded size that methods read."""
    augments = getattr(model.data_preprocessor, 'batch_augments', None)
    modules = list(augments) if isinstance(augments, nn.ModuleList) else []
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


def _unlabelled_terms(
    model: Network,
    distillation: Distillation,
    takers: Mapping[str, Distiller],
    second: Unlabelled,
    task: Callable[..., Mapping[str, Any]],
) -> tuple[Terms, dict[str, Any]]:
    """Run the teachers and the student's tapped parts on the pictures, and compare.

    No random number of the rest of the run changes. Without labels of the teacher, the student's ``loss`` is not
    called, so no head learns that there is nothing on these pictures. With them, the taps are recorded in that loss.
    """
    assert second.batch is not None, 'the step has such pictures'
    active, state = list(takers.values()), distillation.state
    taps = [tap for one in active for tap in one.recorded_taps]
    heads = [path for path in distillation.traced.heads if any(f'{tap.path}.'.startswith(f'{path}.') for tap in taps)]
    with ExitStack() as stack:
        stack.enter_context(fork_rng())
        stack.enter_context(_part(state))
        seed_everything(mix(state.seed, state.rank, state.iteration, _TAG))
        inputs, samples = prepared(model, second.batch)
        taught = teach(active, inputs, next(model.parameters()))
        pseudo, own = second.option.pseudo, dict[str, Any]()
        if pseudo is not None:
            teacher = distillation.teachers[pseudo.teacher_of(distillation.teachers)]
            teacher.load(next(model.parameters()))
            seed = mix(state.seed, state.rank, state.iteration, _TAG)
            ignored = second.ignored
            teacher.ask(lambda network, seen: label_pictures(network, seen, samples, pseudo, ignored), inputs, seed)
        if second.option.bn == 'labelled':
            stack.enter_context(_kept_statistics(model))
        with recording(model, distillation, active) as student:
            if pseudo is None:
                run_parts(model, taps, inputs, heads=heads)
            else:
                own = pseudo_losses(model, task, inputs, samples, pseudo.weight)
        return compare(takers, student, taught, samples), own


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
