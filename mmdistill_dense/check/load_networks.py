"""Build, load and describe the student and the teachers of a check."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from torch import nn

from mmdistill_dense.analysis.training_step import build_student, draw_tokens, load_teacher, run_length
from mmdistill_dense.check.context import InitialWeights, StudentFacts, Subject, TeacherFacts
from mmdistill_dense.check.data import generate, shapes_of, test_pictures
from mmdistill_dense.config.resolve import ModelConfig, is_distill_model, load_model, model_of, student_option
from mmdistill_dense.distillers import MasKD
from mmdistill_dense.distillers.maskd.prepare_tokens import Places
from mmdistill_dense.distillers.maskd.token_files import Values
from mmdistill_dense.guards.class_counts import num_classes
from mmdistill_dense.guards.config import check_pretrained, count_fitting, pretrained_parts
from mmdistill_dense.model.balanced_step import choose_ratios
from mmdistill_dense.networks.building import naming_weights
from mmdistill_dense.networks.teacher import FrozenTeacher
from mmdistill_dense.recipes.check_data import optimizer_of
from mmdistill_dense.utils.messages import message_of
from mmdistill_dense.utils.protocols import Network
from mmdistill_dense.weights.locate import local_file
from mmdistill_dense.weights.strict_load import read_checkpoint, state_dict_of

_AUXILIARY = 'auxiliary_head.'  # of mmseg: used in training alone


def resolve(subject: Subject) -> ModelConfig:
    """Return the student's model config, resolved; set the registries' scope."""
    init_default_scope(subject.config.get('default_scope', 'mmengine'))
    model = model_of(subject.config)
    return load_model(student_option(model), 'model.student') if is_distill_model(model) else load_model(model, 'model')


def build(subject: Subject) -> None:
    """Build the model on the checked device, and generate a batch if none was read."""
    subject.model = build_student(option(subject)).to(subject.options.device)
    if subject.batch is None:
        subject.batch = generate(subject)
    subject.batch_shape = shapes_of(ready_batch(subject)['inputs'])
    subject.student = describe_student(subject.model)
    choose_ratios(subject.distillers, optimizer_of(subject.config).get('type') == 'SGD')
    _place_in_run(subject)


def ready_batch(subject: Subject) -> dict[str, Any]:
    """Return the batch as the student sees it, made from a copy because samples are padded in place."""
    return subject.model.data_preprocessor(copy.deepcopy(subject.batch), True)


def option(subject: Subject) -> dict[str, Any]:
    """Return the model's config, with the checked size as the size that it pads to."""
    model: dict[str, Any] = model_of(subject.config)
    preprocessor = model.get('data_preprocessor') or {}
    if subject.options.size and 'size' in (subject.network.get('data_preprocessor') or {}):
        model['data_preprocessor'] = {**preprocessor, 'size': tuple(subject.options.size)}
    return model


def load(subject: Subject) -> None:
    """Load as the runner does, or give the teachers random weights with the statistics of the batch."""
    model = subject.model
    like = next(model.parameters())
    if subject.options.weights:
        _load_weights(subject)
    else:
        _draw_weights(model)
        inputs = ready_batch(subject)['inputs']
        for teacher in subject.frozen.values():
            if teacher.taps:
                first = inputs[0] if isinstance(inputs, (list, tuple)) else inputs
                load_teacher(teacher, like, first, random=True)
    for name, distiller in subject.distillers.items():
        if isinstance(distiller, MasKD) and not _take_tokens(subject, distiller):
            subject.untaught[name] = 'its tokens are random here: training learns them first'
    subject.teachers = [_describe_teacher(teacher) for teacher in subject.frozen.values()]


def _draw_weights(model: Network) -> None:
    """Initialise the student without files: some of mmdet's parameters are uninitialised memory until then."""
    module: Any
    for module in model.modules():
        given = getattr(module, 'init_cfg', None)
        if given:
            drawn = [one for one in (given if isinstance(given, list) else [given]) if 'Pretrained' not in one['type']]
            module.init_cfg = drawn or None
    distillation = getattr(model, 'distillation', None)
    if distillation is None:
        model.init_weights()
        return
    with distillation.set_aside():
        model.init_weights()


def _load_weights(subject: Subject) -> None:
    model, start = subject.model, subject.config.get('load_from')
    if start is None:
        check_pretrained(model)
    elif hasattr(model, 'distillation'):
        model.distillation.inherit_nothing()  # as DistillHook does
    key = 'model.student' if is_distill_model(subject.config.model) else 'model'
    with nullcontext() if hasattr(model, 'distillation') else naming_weights(model, key):
        model.init_weights()
    if start is None:
        _starts(subject).extend(_initial_weights(model))
    else:
        path = local_file(str(start), None, 'load_from')
        own, state = model.state_dict(), state_dict_of(read_checkpoint(path), path)
        fitting = {name: value for name, value in state.items() if name in own and own[name].shape == value.shape}
        model.load_state_dict(fitting, strict=False)
        subject.started = (len(fitting), len(own))
        _starts(subject).append(InitialWeights('', str(start), *subject.started))


def _starts(subject: Subject) -> list[InitialWeights]:
    assert subject.student is not None, 'the model is built'
    return subject.student.starts


def _initial_weights(model: nn.Module) -> Iterator[InitialWeights]:
    """Yield the files that parts of the student start from."""
    for name, module, path, prefix in pretrained_parts(model):
        if not name.startswith('distillers.'):
            counts = count_fitting(module, path, prefix) if Path(path).is_file() else ()
            yield InitialWeights(name, path, *counts)


def _take_tokens(subject: Subject, distiller: MasKD) -> bool:
    """Load the tokens that training would find, else random ones; return whether any were found."""
    values = _found_tokens(subject, distiller) if subject.options.weights else None
    if values is not None:
        distiller.load_tokens(values)
        return True
    draw_tokens(distiller, torch.Generator().manual_seed(0))
    return False


def _found_tokens(subject: Subject, distiller: MasKD) -> Values | None:
    config = subject.config
    folder = config.get('work_dir') or Path('work_dirs', Path(config.filename or 'config').stem)
    assert distiller.teacher is not None, 'the model sets it'
    places = Places(distiller, distiller.teacher, folder, config.get('train_dataloader', {}).get('dataset'))
    return places.read_known(distiller.tokens, MMLogger.get_current_instance())


def _place_in_run(subject: Subject) -> None:
    """Set the iteration to the run's start, or to its middle if a schedule has a distiller off at the start."""
    if not hasattr(subject.model, 'distillation'):
        return
    length = run_length(subject.config, subject.pictures, subject.options.processes)
    subject.model.distillation.enter_run(length)
    if any(distiller.weight() == 0 for distiller in subject.distillers.values()):
        state = subject.model.distillation.state
        state.iteration = subject.iteration = state.max_iters // 2


def describe_student(model: nn.Module) -> StudentFacts:
    """Return class and numbers of parameters of a built student."""
    own = {name: p for name, p in model.named_parameters() if not name.startswith(('distillers.', _AUXILIARY))}
    backbone = {name: p for name, p in own.items() if name.startswith('backbone.')} or own
    return StudentFacts(
        type(model).__name__.removeprefix('Distilled'),
        *_counts(own),
        *_counts(backbone),
        distillers=_counts(dict(getattr(model, 'distillers', nn.ModuleDict()).named_parameters()))[1],
        auxiliary=_counts({name: p for name, p in model.named_parameters() if name.startswith(_AUXILIARY)})[0],
    )


def _counts(parameters: dict[str, nn.Parameter]) -> tuple[int, int]:
    """Return the number of parameters, and how many of them are trained."""
    values = parameters.values()
    return sum(p.numel() for p in values), sum(p.numel() for p in values if p.requires_grad)


def _describe_teacher(teacher: FrozenTeacher) -> TeacherFacts:
    network = teacher.network
    receipt = teacher.receipt
    return TeacherFacts(
        teacher.key,
        str(teacher.config.model.get('type')) if network is None else type(network).__name__,
        0 if network is None else sum(p.numel() for n, p in network.named_parameters() if not n.startswith(_AUXILIARY)),
        receipt.as_dict() if receipt else None,
        None if teacher.classes is None else list(teacher.classes),
        teacher.plan.renormalise is not None,
    )


def test_teachers(subject: Subject) -> None:
    """Test each loaded teacher on some validation pictures, or note why it is not tested."""
    for teacher, facts in zip(subject.frozen.values(), subject.teachers, strict=True):
        facts.metric_note = _untested(subject, teacher)
        if facts.metric_note:
            continue
        try:
            facts.metric, facts.metric_pictures = test_pictures(teacher.network, subject.config, subject.options.val)
        except Exception as error:  # no reason to stop: training does not test teachers
            facts.metric_note = f'not tested: {message_of(error)}'


def _untested(subject: Subject, teacher: FrozenTeacher) -> str:
    receipt, classes = teacher.receipt, num_classes(teacher.config.model)
    if teacher.network is None:
        return 'not needed in training'
    if not subject.options.weights or receipt is None or receipt.file is None:
        return 'not tested: its weights are random'
    if subject.options.val == 0 or subject.data_problem:
        return 'not tested'
    if not hasattr(teacher.network, 'val_step') or classes is None:
        return 'not tested: it predicts nothing'
    if 'val_dataloader' not in subject.config or 'val_evaluator' not in subject.config:
        return 'not tested: the config has no validation set'
    if subject.data_classes is not None and classes != len(subject.data_classes):
        return f'not tested: it predicts {classes} other classes'
    if receipt.ignored:
        return 'not tested: parts of it that no distiller needs are not loaded'
    return ''
