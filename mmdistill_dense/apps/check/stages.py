"""The stages of a check: networks, a batch, weights, one training step and one prediction.

Each takes the context, notes facts there, and yields what only a measurement can find.
"""

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.evaluator import Evaluator
from mmengine.logging import MessageHub, MMLogger
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DATASETS, init_default_scope
from mmengine.runner import Runner
from mmengine.runner.checkpoint import CheckpointLoader
from mmengine.structures import BaseDataElement
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmdistill_dense.apps.check.context import CheckContext, Size, StudentFacts, TapRow, TeacherFacts
from mmdistill_dense.apps.inspect.generated_batch import training_batch
from mmdistill_dense.apps.inspect.gradients import BACKBONE, TASK, measure_gradients
from mmdistill_dense.apps.inspect.inference import predict_items
from mmdistill_dense.config.resolve import load_model, model_of, student_option
from mmdistill_dense.config.values import listed, num_classes, type_name
from mmdistill_dense.datasets.wrapped import classes_of, count_pictures
from mmdistill_dense.distillers.maskd.token_distiller import TokenDistiller, TokenStore
from mmdistill_dense.engine.run_guards import check_distillation
from mmdistill_dense.engine.work_folder import folder_of
from mmdistill_dense.guards.config import check_pretrained, count_fitting, pretrained_parts
from mmdistill_dense.guards.findings import Findings, error, note, warning
from mmdistill_dense.guards.runner import check_file
from mmdistill_dense.networks.building import complete_heads, naming_weights
from mmdistill_dense.networks.class_pairs import in_students_classes
from mmdistill_dense.networks.inputs import check_teacher_inputs
from mmdistill_dense.networks.modes import evaluating
from mmdistill_dense.networks.recording import noting, run_parts
from mmdistill_dense.networks.teacher import FrozenTeacher
from mmdistill_dense.networks.trace import first_larger
from mmdistill_dense.registry import MODELS
from mmdistill_dense.unlabelled.pictures import training_steps
from mmdistill_dense.unlabelled.step import unlabelled_of
from mmdistill_dense.unlabelled.stream import open_pictures
from mmdistill_dense.utils.reproducible import fork_rng, seed_everything, without_workers
from mmdistill_dense.utils.runner_internals import AUXILIARY, parameters_in_use
from mmdistill_dense.utils.sampling import evenly_spaced
from mmdistill_dense.utils.validate import message_of
from mmdistill_dense.weights.mmengine_loader import install_reader

DEFAULT_ITERATIONS = 1000  # of a run whose length is unknown, because its data set is missing
VIEW_SIDE = 224  # of a generated view if the config gives no size
DATA = 'data'  # the name of findings behind which the other stages still run, on generated pictures


def read_model(context: CheckContext) -> None:
    """Resolve the student's network, and set the registries' scope."""
    if 'model' not in context.config:
        raise ValueError('the config has no model.')
    init_default_scope(context.config.get('default_scope') or 'mmengine')
    model = model_of(context.config)
    context.network = load_model(student_option(model) if context.distills else model, context.key).model


def read_data(context: CheckContext) -> Findings:
    """Read the first batch of the training set as the runner's loader gives it, and pictures of validation."""
    config, loaders = context.config, {f'{key}_dataloader' for key in context.splits}
    classes = {key: classes_of((config.get(key) or {}).get('dataset') or {}) for key in sorted(loaders)}
    context.data_classes = classes.pop('train_dataloader')
    context.scored_classes = {key: names for key, names in classes.items() if names is not None}
    if context.generated:
        return
    try:
        _read_batch(context)
    except FileNotFoundError as problem:
        context.generated = True
        remedy = 'The rest is checked on generated pictures' + ', as with --size H W' * context.options.command
        yield error(f'training cannot start: {problem}', f'{remedy}.', DATA)
        return
    try:  # pictures of validation, also those that a teacher is tested on; training reads all of them later
        if config.get('val_dataloader'):
            context.validation = dataset = DATASETS.build(config.val_dataloader.dataset)
            for index in evenly_spaced(len(dataset), max(1, context.options.val)):
                context.tested = dataset[index]
    except Exception as problem:  # a pipeline may run any code
        yield error(f'training would stop at the first validation: {message_of(problem)}', check=DATA)


def _read_batch(context: CheckContext) -> None:
    if not context.config.get('train_dataloader'):
        raise FileNotFoundError('the config has no train_dataloader')
    loader_option = without_workers(context.config.train_dataloader)
    with fork_rng():
        seed_everything(0)
        loader_option |= {'batch_size': context.batch_size, 'pin_memory': False}
        loader = Runner.build_dataloader(loader_option, seed=0)
        if len(loader.dataset) == 0:
            raise ValueError('train_dataloader.dataset holds no picture: check folders, ann_file and filter_cfg.')
        context.length, context.pictures = len(loader.dataset), count_pictures(loader.dataset)
        metainfo = getattr(loader.dataset, 'metainfo', None) or {}
        context.data_classes = metainfo.get('classes') or context.data_classes
        context.panoptic = 'thing_classes' in metainfo
        context.batch = next(iter(loader), None)
    if context.batch is None:
        raise ValueError(f'no batch of {context.batch_size} in {context.pictures} training pictures.')


def generate(context: CheckContext) -> Mapping[str, Any]:
    """Return a generated batch with the student's classes, of ``--size`` or of the config's training size."""
    model, size = context.model, context.options.size
    if any(hasattr(model, name) for name in ('decode_head', 'bbox_head', 'roi_head')):
        return training_batch(model, context.config, context.batch_size, size)
    side: Size = size or getattr(model.data_preprocessor, 'size', None) or (VIEW_SIDE, VIEW_SIDE)
    draw, count = torch.Generator().manual_seed(0), context.batch_size
    views = [torch.randint(256, (count, 3, *side), generator=draw, dtype=torch.uint8).unbind() for _ in range(2)]
    return {'inputs': list(map(list, views)), 'data_samples': [BaseDataElement() for _ in range(count)]}


@torch.no_grad()
def test_pictures(context: CheckContext, teacher: FrozenTeacher) -> tuple[dict[str, float], int]:
    """Test a teacher on some validation pictures, spread over the set; one of other classes by those that pair."""
    network: Any = teacher.network
    dataset, tested_ids = context.validation, []
    indices = evenly_spaced(len(dataset), context.options.val)
    evaluator = Evaluator(context.config.val_evaluator)
    evaluator.dataset_meta = dataset.metainfo
    for index in indices:
        batch = pseudo_collate([dataset[index]])
        outputs = network.val_step(batch)
        outputs = outputs if teacher.pairs is None else in_students_classes(outputs, teacher.pairs)
        evaluator.process(data_samples=outputs, data_batch=batch)
        tested_ids += [sample.metainfo.get('img_id') for sample in outputs]
    for metric in evaluator.metrics:  # else COCO's metric counts pictures that were not tested
        if getattr(metric, 'img_ids', 0) is None and getattr(metric, '_coco_api', None) is not None:
            metric.img_ids = tested_ids
    scores = evaluator.evaluate(len(indices)).items()
    return {name: float(score) for name, score in scores if isinstance(score, (int, float, np.number))}, len(indices)


def build(context: CheckContext) -> None:
    """Build the model on the checked device, and generate a batch if none was read."""
    context.model = build_student(option(context)).to(context.options.device)
    if context.batch is None:
        context.batch = generate(context)
    inputs = ready_batch(context)['inputs']
    context.batch_shape = [list(tensor.shape) for tensor in ([inputs] if torch.is_tensor(inputs) else inputs)]
    context.student = describe_student(context.model)
    if distillation := getattr(context.model, 'distillation', None):
        distillation.enter_run(run_length(context.config, context.length, context.options.processes))
        if any(distiller.weight() == 0 for distiller in context.distillers.values()):  # off at the start
            distillation.state.iteration = context.iteration = distillation.state.max_iters // 2


def build_student(model: Mapping[str, Any]) -> Any:
    """Build a student for one process, in training mode."""
    network = revert_sync_batchnorm(MODELS.build(Config({'model': model}).model)).train()
    complete_heads(network)
    return network


def run_length(config: Config, pictures: int | None = None, processes: int = 1) -> int:
    """Return the iterations of a config's run."""
    loop = config.get('train_cfg') or {}
    if 'max_iters' in loop:
        return loop['max_iters']
    if 'max_epochs' not in loop or pictures is None:
        return DEFAULT_ITERATIONS
    return loop['max_epochs'] * max(pictures // (config.train_dataloader.get('batch_size', 1) * processes), 1)


def read_unlabelled(context: CheckContext) -> None:
    """Open the pictures without labels as training does, and give the model those of a step."""
    second = unlabelled_of(context.model)
    if second is None or context.generated:
        return
    labelled = DATASETS.build(copy.deepcopy(context.config.train_dataloader.dataset))
    free = open_pictures(second.option, context.config, labelled)
    count = second.option.count(context.batch_size)
    with fork_rng():
        seed_everything(0)
        second.batch = pseudo_collate([free.dataset[index] for index in evenly_spaced(len(free.dataset), count)])
    context.unlabelled = {'pictures': len(free.dataset), 'labelled': free.labelled, 'step': count}


def ready_batch(context: CheckContext) -> dict[str, Any]:
    """Return the batch as the student sees it, made from a copy because samples are padded in place."""
    if (hub := MessageHub.get_current_instance()).get_info('iter') is None:
        hub.update_info('iter', 0)  # that of a runner, which YOLOX's preprocessor asks for
    return context.model.data_preprocessor(copy.deepcopy(context.batch), True)


def option(context: CheckContext) -> dict[str, Any]:
    """Return the model's config, with the checked size as the size that it pads to."""
    model: dict[str, Any] = model_of(context.config)
    if context.options.size and 'size' in (context.network.get('data_preprocessor') or {}):
        model['data_preprocessor'] = {**(model.get('data_preprocessor') or {}), 'size': tuple(context.options.size)}
    return model


def load(context: CheckContext) -> Findings:
    """Load as the runner does, or give the teachers random weights with the statistics of the batch."""
    model = context.model
    yield from _init_weights(context)
    if not context.options.whole:
        inputs, like = ready_batch(context)['inputs'], next(model.parameters())
        for teacher in [teacher for teacher in context.frozen.values() if teacher.taps]:
            load_random(teacher, like, inputs if torch.is_tensor(inputs) else inputs[0])
    for name, distiller in context.distillers.items():
        if isinstance(distiller, TokenDistiller):
            _load_tokens(context, name, distiller)
    for teacher in context.frozen.values():
        parameters = 0 if teacher.network is None else parameters_in_use(teacher.network)
        facts = TeacherFacts(teacher.key, type_name(teacher.config.model), parameters, teacher.receipt)
        context.teachers.append(facts)
    if hasattr(model, 'distillation'):
        max_iters, whole = model.distillation.state.max_iters, context.options.whole
        yield from check_distillation(model, context.data_classes, context.pictures, max_iters, whole)


@torch.no_grad()
def load_random(teacher: FrozenTeacher, like: Tensor, inputs: Tensor) -> None:
    """Give a teacher random weights with the statistics of a batch."""
    teacher.load(like, random=True)
    assert teacher.network is not None, 'it is loaded'
    for norm in [module for module in teacher.network.modules() if isinstance(module, _BatchNorm)]:
        norm.reset_running_stats()
        norm.momentum = None  # the statistics of this batch alone
        norm.train()
    run_parts(teacher.network, teacher.taps, teacher.renormalised(inputs))
    teacher.network.eval()


def draw_tokens(distiller: TokenDistiller) -> None:
    draw, shapes = torch.Generator().manual_seed(0), distiller.token_shapes()
    distiller.load_tokens({name: 0.01 * torch.randn(shape, generator=draw) for name, shape in shapes.items()})


def _load_tokens(context: CheckContext, name: str, distiller: TokenDistiller) -> None:
    """Load the tokens of a distiller if they are known, else random ones."""
    config, values = context.config, None
    if context.options.whole:
        assert distiller.teacher is not None, 'the model sets it'
        dataset = (config.get('train_dataloader') or {}).get('dataset')
        store = TokenStore(distiller, distiller.teacher, folder_of(config), dataset)
        values = store.read_known(MMLogger.get_current_instance())
    if values is not None:
        distiller.load_tokens(values)
    else:
        draw_tokens(distiller)
        context.untaught.append(name)


def _init_weights(context: CheckContext) -> Findings:
    """Initialise as the runner does, or without files; before that, some of mmdet's parameters are raw memory."""
    model, start, options = context.model, context.config.get('load_from'), context.options
    assert context.student is not None, 'the model is built'
    distillation = getattr(model, 'distillation', None)
    if not options.weights:
        for module in model.modules():
            if init := listed(getattr(module, 'init_cfg', None)):
                module.init_cfg = [cfg for cfg in init if 'Pretrained' not in cfg['type']] or None
    elif start is None:
        check_pretrained(model)
    elif distillation:
        distillation.inherit = ()  # as DistillHook does
    aside = distillation.set_aside() if distillation and not options.whole else nullcontext()
    with naming_weights(model, context.key) if distillation is None else aside:
        model.init_weights()
    if not options.weights:
        return
    if start is None:
        check_pretrained(model, loaded=not context.config.model.get('inherit'))
        for name, module, path, prefix in pretrained_parts(model):
            if not name.startswith('distillers.'):
                counts = count_fitting(module, path, prefix) if Path(path).is_file() else ()
                share = f', {counts[0]} of {counts[1]} tensors' if counts else ''
                context.student.starts.append(f'{name or "all"} from {path}{share}')
        for name, module in model.named_modules():
            if isinstance(file := getattr(module, 'checkpoint', None), str):  # of a foundation model, read strictly
                context.student.starts.append(f'{name or "all"} from {file}')
        return
    install_reader()
    content = CheckpointLoader.load_checkpoint(str(start), map_location='cpu')
    yield from map(warning, check_file(model, content, f'load_from={start!r}'))
    target, state = model.state_dict(), content.get('state_dict', content)  # by the names of the student now
    fitting = {name: value for name, value in state.items() if name in target and target[name].shape == value.shape}
    model.load_state_dict(fitting, strict=False)
    context.started = len(fitting), len(target)
    context.student.starts.append(f'all from {start}, {len(fitting)} of {len(target)} tensors')


def describe_student(model: nn.Module) -> StudentFacts:
    parameters = dict(model.named_parameters())
    student = [p for name, p in parameters.items() if not name.startswith(('distillers.', AUXILIARY))]
    return StudentFacts(
        type(model).__name__.removeprefix('Distilled'),
        sum(p.numel() for p in student),
        sum(p.numel() for p in student if p.requires_grad),
        sum(p.numel() for name, p in parameters.items() if name.startswith('distillers.') and p.requires_grad),
        sum(p.numel() for name, p in parameters.items() if name.startswith(AUXILIARY)),
    )


def test_teachers(context: CheckContext) -> Findings:
    """Test each loaded teacher on some validation pictures, or note why it is not tested."""
    for teacher, facts in zip(context.frozen.values(), context.teachers, strict=True):
        facts.metric_note = _why_untested(context, teacher)
        try:
            if not facts.metric_note:
                facts.metric, facts.metric_pictures = test_pictures(context, teacher)
        except Exception as problem:  # no reason to stop: training does not test teachers
            facts.metric_note = f'not tested: {message_of(problem)}'
    yield from judge_teachers(context.teachers, len(context.data_classes or ()) or 1)


def judge_teachers(teachers: Iterable[TeacherFacts], classes: int) -> Findings:
    """Warn of teachers that predict no better than chance."""
    for facts in teachers:
        segments = facts.metric.get('mIoU')
        detects = next((score for name, score in facts.metric.items() if name.endswith('bbox_mAP_50')), None)
        if (segments is not None and segments <= 100 / classes) or detects == 0:
            shown = f'AP50 {detects:.3f}' if segments is None else f'mIoU {segments:.1f}'
            yield warning(
                f'{facts.key} predicts no better than chance on {facts.metric_pictures} validation pictures ({shown}).',
                'Another file, other classes or another order of them, another normalisation? More pictures: --val N.',
            )


def _why_untested(context: CheckContext, teacher: FrozenTeacher) -> str:
    config, classes, receipt = context.config, num_classes(teacher.config.model), teacher.receipt
    if teacher.network is None:
        return 'not needed in training'
    other = context.data_classes is not None and teacher.pairs is None and classes != len(context.data_classes)
    reasons = {
        'its weights are random': not context.options.whole or receipt is None or receipt.file is None,
        'it predicts nothing': not hasattr(teacher.network, 'val_step') or classes is None,
        'the config has no validation set': not config.get('val_dataloader') or not config.get('val_evaluator'),
        'no picture is read': context.options.val == 0 or context.validation is None,
        f'it predicts {classes} other classes': other,
        'parts of it that no distiller needs are not loaded': receipt is not None and receipt.ignored,
    }
    return next((f'not tested: {reason}' for reason, applies in reasons.items() if applies), '')


MAX_SHARE, MIN_SHARE = 0.95, 0.005  # a distiller's share of the gradient at the backbone that is too large, too small
DOMINANT_SHARE = 0.999  # a share that is too large even at the start of training
LATER = '--cfg-options load_from=CHECKPOINT'


def run_step(context: CheckContext) -> Findings:
    """Run a step on the batch and note taps and the terms of the loss; the model stays as it is."""
    model, batch = context.model, context.batch or {}
    if any(True for distiller in context.distillers.values() for _ in distiller.buffers()):
        with torch.no_grad():  # fills queues of keys, which are empty when training starts and give no loss then
            model(**ready_batch(context), mode='loss')
    for teacher in context.frozen.values():
        teacher.input_stats = []
    with noting(context.distillers.items(), partial(_note_taps, context)):
        context.terms = measure_gradients(model, batch)
    for teacher in context.frozen.values():
        stats, teacher.input_stats = teacher.input_stats or [], None
        seen = stats if context.options.whole else [replace(entry, flat={}) for entry in stats]
        check_teacher_inputs(teacher.key, seen, context.config)
    for term in context.terms if context.options.whole else ():  # as a training checks it in each step
        if not all(map(math.isfinite, [term.value, *(pull.norm for pull in term.pulls.values())])):
            yield error(
                f'{term.name} is {term.value} with a gradient of {term.pulls[BACKBONE].norm} at the backbone.',
                'Check the labels, the weights of that term, and that the teacher is the right file.',
            )
    yield from judge_shares(context)


def judge_shares(context: CheckContext) -> Findings:
    """Check that each distiller changes the backbone's gradient, and that none drowns the task's."""
    norms = {term.name: term.pulls[BACKBONE].norm for term in context.terms}
    total = sum(norms.values())
    if not context.options.whole or not 0 < total < math.inf:
        return
    for name, distiller in context.distillers.items():
        if name in context.untaught:
            continue
        norm = sum(value for term, value in norms.items() if term.startswith(f'distill.{name}.'))
        key, share = f'model.distillers.{name}', norm / total
        if distiller.weight() == 0:
            yield note(f'{key} is off by its schedule at iteration {context.iteration}.')
        elif share == 0:
            message = f'{key} has no gradient at the backbone: it teaches the student nothing.'
            advice = 'Check that its student_tap comes after trained layers, and that its teacher_tap is not constant.'
            yield warning(message, advice)
        elif share < MIN_SHARE:
            message = f'{key} has {share:.2%} of the gradient at the backbone.'
            yield warning(message, f'Raise {key}.loss_weight, unless this is intended.')
        elif share > MAX_SHARE and norms.get(TASK):
            message = f'{key} has {share:.1%} of the gradient at the backbone, the task hardly counts.'
            # A detector's own gradients are small at first: distillers that work well have nearly all of it.
            finding = warning if share > DOMINANT_SHARE or context.started else note
            yield finding(message, f'If it stays so later ({LATER}), lower {key}.loss_weight.')


def _note_taps(context: CheckContext, name: str, arguments: Sequence[Any], _: Any) -> None:
    """Note what a distiller compares in its first call; a second one compares the pictures without labels."""
    if any(row.distiller == name for row in context.taps):
        return
    distiller, (student, teacher) = context.distillers[name], arguments[:2]
    for s_tap, t_tap in zip(map(str, distiller.student_taps), map(str, distiller.teacher_taps), strict=True):
        shapes = [list(tensor.shape) for tensor in student[s_tap]]
        if distiller.teacher_gives:
            context.taps.append(TapRow(name, s_tap, shapes[0], distiller.teacher_gives, shapes[0]))
            continue
        of_teacher = [list(tensor.shape) for tensor in teacher[t_tap]]
        pairs = zip_longest(shapes, of_teacher, fillvalue=list[int]())
        context.taps += [TapRow(name, s_tap, shape, t_tap, other) for shape, other in pairs]


def predict(context: CheckContext) -> None:
    """Pass the picture of validation that was read through the student, and what it predicts to the metrics."""
    item = context.tested
    if item is None or not hasattr(context.model, 'val_step'):
        return
    stops = 'training would stop at its first evaluation: '
    try:
        prediction = _predict(context.model, item)
    except Exception as error:
        height, width = item['inputs'].shape[-2:]
        steps = training_steps(context.config.val_dataloader.dataset)
        scales = ', '.join(f'{step["type"]}.scale={step["scale"]}' for step in steps if step.get('scale'))
        larger = first_larger(lambda size: _predict(context.model, _resized(item, size)), (height, width))
        works = f' It can predict one of {larger[0]}x{larger[1]}: set such a scale' if larger else ''
        raise ValueError(
            f'{stops}{type(context.model).__name__.removeprefix("Distilled")} cannot predict a picture of '
            f'{height}x{width}, as val_dataloader.dataset.pipeline ({scales or "without a scale"}) gives it. '
            f'{message_of(error).rstrip(".")}.{works}'
            + (' there and in test_dataloader (new: --size), or take another network.' if works else '')
        ) from error
    if not context.config.get('val_evaluator'):
        return
    try:
        evaluator = Evaluator(context.config.val_evaluator)
        evaluator.dataset_meta = context.validation.metainfo
        evaluator.process(data_samples=prediction, data_batch=pseudo_collate([item]))
    except Exception as error:
        labels = "Set val_evaluator.ann_file, or add 'instances' to meta_keys of that pipeline's last step."
        raise ValueError(
            f'{stops}val_evaluator takes no picture as val_dataloader.dataset.pipeline gives it. '
            f'{message_of(error).rstrip(".")}. {labels if "ann_file" in str(error) else ""}'.rstrip()
        ) from error


def _predict(model: Any, item: dict[str, Any]) -> list[Any]:
    with evaluating(model):
        return predict_items(model, [copy.deepcopy(item)], logits=True)[0]


def _resized(item: dict[str, Any], size: Size) -> dict[str, Any]:
    """Return a packed picture in another size; its labels, which a prediction does not read, stay."""
    sample = copy.deepcopy(item['data_samples'])
    sample.set_metainfo({'img_shape': size, 'pad_shape': size})
    inputs = F.interpolate(item['inputs'][None].float(), size)[0].to(item['inputs'].dtype)
    return {'inputs': inputs, 'data_samples': sample}
