"""Labels that a teacher gives to pictures without labels, and the student's own loss on them.

Segmentation: a pixel gets its most likely class if that has at least the threshold's probability, else 255 (FixMatch,
2001.07685; UniMatch, 2208.09910). Detection: boxes of at least the threshold's score are objects, weaker ones are
ignored (Soft Teacher, 2106.09018).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import torch
from mmengine.structures import InstanceData, PixelData
from torch import Tensor, nn

from mmdistill_dense.config.unknown_keys import check_known
from mmdistill_dense.losses import to_device
from mmdistill_dense.networks.class_pairs import BACKGROUND, ClassPairs, chosen
from mmdistill_dense.networks.trace import TeacherOption, Traced
from mmdistill_dense.utils.runner_internals import IGNORED, Network, Sample, Samples
from mmdistill_dense.utils.validate import is_number, some

KEY = 'model.unlabelled.pseudo'
SEG_THRESHOLD = 0.95  # UniMatch
DET_THRESHOLD = 0.9  # Soft Teacher
UNSURE = 0.05  # score from which a box is ignored; the usual score_thr of mmdet
_IGNORE_IOF = 0.5  # part of an anchor inside an ignored box from which it is no background


@dataclass(frozen=True)
class PseudoOption:
    """Options of ``model.unlabelled.pseudo``.

    Args:
        threshold: Least probability of a pixel's class, or score of a box. Defaults to 0.95 for segmentation and 0.9
            for detection.
        weight: Factor on the student's loss on these labels. Defaults to 1.
        teacher: Name of the teacher that gives the labels, where there are several. Defaults to the only one.
    """

    threshold: float | None = None
    weight: float = 1
    teacher: str | None = None

    def __post_init__(self) -> None:
        if self.threshold is not None and (not is_number(self.threshold) or not UNSURE < self.threshold < 1):
            raise ValueError(
                f'{KEY}.threshold must be a number above {UNSURE} and below 1, e.g. {SEG_THRESHOLD}, got '
                f'{self.threshold!r}.'
            )
        if not is_number(self.weight) or self.weight <= 0:
            raise ValueError(f'{KEY}.weight must be a number > 0, got {self.weight!r}; to switch it off, remove {KEY}.')

    @classmethod
    def parse(cls, option: Mapping[str, Any] | None) -> PseudoOption | None:
        """Return the options of a config, ``None`` without any."""
        if option is None:
            return None
        if not isinstance(option, Mapping):
            raise TypeError(f'{KEY} must be a dict, e.g. dict(threshold={SEG_THRESHOLD}), got {option!r}.')
        check_known(KEY, option, [one.name for one in fields(cls)])
        return cls(**option)

    def teacher_of(self, names: Collection[str]) -> str:
        """Return the name of the teacher that gives the labels."""
        name = next(iter(names)) if self.teacher is None and len(names) == 1 else self.teacher
        if name not in names:
            raise ValueError(f'{KEY}.teacher={self.teacher!r}: the distillers learn from {", ".join(names)}; name one.')
        return str(name)


def check_student(student: nn.Module) -> None:
    """Refuse students whose loss cannot leave out what the teacher is unsure of."""
    if _segments(student):
        return
    if getattr(student, 'with_mask', False):
        raise ValueError(
            f'{KEY}: {type(student).__name__} learns masks, and these labels are boxes. Remove {KEY}: the distillers '
            'teach on these pictures without it.'
        )
    assigners = _assigners(student)
    unfit = [type(one).__name__ for one in assigners if not hasattr(one, 'ignore_iof_thr')]
    if unfit or not assigners:
        how = f'{" and ".join(dict.fromkeys(unfit))}, which knows' if unfit else 'a rule of its own, which knows'
        raise ValueError(
            f'{KEY}: {type(student).__name__} assigns boxes by {how} no ignored ones: objects that the teacher is '
            f'unsure of would become background. Remove {KEY}: the distillers teach on these pictures without it, e.g. '
            'HeadOutputKD on the class scores.'
        )


def ignored_label(student: nn.Module) -> int:
    """Return the label of a pixel that teaches nothing to a segmentor; 255 for other students, which have no pixels."""
    if not _segments(student):
        return IGNORED
    heads = {
        name: one.ignore_index
        for name, one in student.named_modules()
        if hasattr(one, 'ignore_index') and hasattr(one, 'num_classes')
    }
    if len(set(heads.values())) > 1:
        shown = ', '.join(f'{name}.ignore_index={value}' for name, value in heads.items())
        raise ValueError(f'{KEY}: the heads of the student ignore different labels, {shown}: give them the same one.')
    return next(iter(heads.values()), IGNORED)


def label_pictures(
    network: Network,
    inputs: Tensor,
    samples: Samples,
    option: PseudoOption,
    ignored: int = IGNORED,
    pairs: ClassPairs | None = None,
) -> None:
    """Give each sample of a batch (B, 3, H, W), normalised for a teacher's network, the labels that it is sure of.

    The samples get ``gt_sem_seg``, or ``gt_instances`` and ``ignored_instances``. Pixels that are 255 in a
    ``gt_sem_seg`` of theirs get no label, which is ``ignored`` for the student.
    """
    if _segments(network):
        metas = [{'img_shape': inputs.shape[-2:]} for _ in samples]
        check_scores(network)
        scores = probabilities(network.encode_decode(inputs, metas))  # type: ignore[operator]
        labels = sure_pixels(scores, option.threshold or SEG_THRESHOLD, ignored, pairs)
        for sample, found in zip(samples, labels, strict=True):
            height, width = sample.metainfo['img_shape'][:2]
            found[height:], found[:, width:] = ignored, ignored  # padding
            if 'gt_sem_seg' in sample:  # marks what the pipeline has added
                found[sample.gt_sem_seg.data[0] == IGNORED] = ignored
            _set(sample, gt_sem_seg=PixelData(data=found[None]))
        return
    bare = [type(sample)(metainfo=dict(sample.metainfo)) for sample in samples]  # type: ignore[call-arg]
    for sample, found in zip(samples, network.predict(inputs, bare, rescale=False), strict=True):  # type: ignore[operator]
        sure, unsure = sure_boxes(found.pred_instances, option.threshold or DET_THRESHOLD, pairs)
        _set(sample, gt_instances=sure, ignored_instances=unsure)


def probabilities(logits: Tensor) -> Tensor:
    """Return the probabilities of a segmentation network's logits (B, C, H, W); C = 1 is two classes by a sigmoid."""
    if logits.shape[1] > 1:
        return logits.float().softmax(1)
    return two_classes(logits.float().sigmoid())


def two_classes(second: Tensor) -> Tensor:
    """Return the probabilities (B, 2, H, W) of two classes from that of the second, (B, 1, H, W)."""
    return torch.cat([1 - second, second], 1)


def check_scores(network: Network) -> None:
    """Refuse a segmentation network whose outputs are no logits, such as those that classify masks."""
    head: Any = network.decode_head
    head = head[-1] if isinstance(head, nn.ModuleList) else head
    if not hasattr(head, 'cls_seg'):
        raise ValueError(
            f'{type(head).__name__} gives no probabilities of classes at a pixel (it scores masks), so the threshold '
            'of pseudo labels has no meaning: choose a teacher that classifies pixels, or do without such labels.'
        )


def sure_pixels(scores: Tensor, threshold: float, ignored: int = IGNORED, pairs: ClassPairs | None = None) -> Tensor:
    """Return the most likely class of each pixel, int64 (B, H, W), of probabilities (B, C, H, W).

    Below the threshold it is ``ignored``. With ``pairs``, the classes that a teacher of others shares with the student,
    the most likely group of them needs the threshold's probability, and more than all classes that are not shared; a
    group of several student classes is no label.
    """
    if pairs is None:
        values, labels = scores.max(1)
        return labels.masked_fill(values < threshold, ignored)
    values, groups = pairs.summed(scores).max(1)
    sure = values >= threshold
    if pairs.rest:
        sure &= values > chosen(scores, pairs.rest).sum(1)
    return to_device(torch.tensor(_label_of_group(pairs, ignored)), groups)[groups].masked_fill(~sure, ignored)


def _label_of_group(pairs: ClassPairs, none: int) -> list[int]:
    """Return the student's class of each group, ``none`` for a group of several."""
    return [group.student[0] if len(group.student) == 1 else none for group in pairs.groups]


def _labels_by_class(pairs: ClassPairs, several: bool = False) -> Tensor:
    """Return the student's label of each class of the teacher, -1 without one; ``several``: also of a coarse class."""
    labels = _label_of_group(pairs, -1)
    if several:
        order = [name.lower() != BACKGROUND for name in pairs.student]
        labels = [min(group.student, key=order.__getitem__) for group in pairs.groups]
    label_of = {one: label for group, label in zip(pairs.groups, labels, strict=True) for one in group.teacher}
    return torch.tensor([label_of.get(one, -1) for one in range(len(pairs.teacher))])


def _relabelled(found: Any, by_class: Tensor) -> Any:
    """Return the predicted boxes that have a label of the student, with it.

    Those of other classes are left out, and their places stay background: an ignored dining table would take the cups
    on it along.
    """
    labels = to_device(by_class, found.labels)[found.labels]
    kept = found[labels >= 0]
    kept.labels = labels[labels >= 0]
    return kept


def sure_boxes(found: Any, threshold: float, pairs: ClassPairs | None = None) -> tuple[InstanceData, InstanceData]:
    """Split predicted boxes by their ``scores``: those of at least the threshold, and weaker ones to be ignored.

    ``pairs`` are the classes that a teacher of others shares with the student.
    """
    found = found if pairs is None else _relabelled(found, _labels_by_class(pairs))
    scores = found.scores
    sure, unsure = scores >= threshold, (scores < threshold) & (scores >= UNSURE)
    first, second = (InstanceData(bboxes=found.bboxes[one], labels=found.labels[one]) for one in (sure, unsure))
    return first, second


def in_students_classes(samples: Samples, pairs: ClassPairs) -> Samples:
    """Give what a teacher of other classes predicts the student's labels, to be scored on the student's data.

    A pixel of a class that the student does not have is 255, a miss; boxes of such classes are left out. Of a group of
    several student classes, the background is meant, or the first.
    """
    by_class = _labels_by_class(pairs, several=True)
    sample: Any
    for sample in samples:
        if 'pred_instances' in sample:
            _set(sample, pred_instances=_relabelled(sample.pred_instances, by_class))
        else:
            labels = to_device(by_class, sample.pred_sem_seg.data)[sample.pred_sem_seg.data]
            _set(sample, pred_sem_seg=PixelData(data=labels.masked_fill(labels < 0, IGNORED)))
    return samples


def pseudo_losses(
    student: Network, loss: Callable[..., Mapping[str, Any]], inputs: Tensor, samples: Samples, weight: float
) -> dict[str, Any]:
    """Return the losses of the student's own class on a teacher's labels, times ``weight``.

    Pixels and boxes without a label teach nothing. For segmentation the mean is over all pixels, so that few sure ones
    give a small loss. A picture without a sure box is left out.
    """
    try:
        with _lenient(student) as asked:
            found = loss(inputs, samples)
    except (AttributeError, KeyError) as error:
        if 'gt_' not in str(error):
            raise
        raise ValueError(
            f'{KEY}: the loss of {type(student).__name__} needs more than classes of pixels or boxes: {error}. Remove '
            f'{KEY}.'
        ) from error
    if not asked and not _segments(student):
        raise ValueError(
            f'{KEY}: the loss of {type(student).__name__} does not ask its assigner, so it would take unsure objects '
            f'for background. Remove {KEY}.'
        )
    return {name: _times(weight, value) if 'loss' in name else value for name, value in found.items()}


@contextmanager
def _lenient(student: nn.Module) -> Iterator[list[Any]]:
    """Let the student's losses leave out what has no label; yield what its assigners answer."""
    asked: list[Any] = []
    with ExitStack() as stack:
        for module in student.modules():
            if getattr(module, 'avg_non_ignore', False):
                stack.enter_context(_replaced(module, avg_non_ignore=False))
        for one in [] if _segments(student) else _assigners(student):
            stack.enter_context(_replaced(one, ignore_iof_thr=_IGNORE_IOF, assign=partial(_assign, one.assign, asked)))
        yield asked


@contextmanager
def _replaced(holder: Any, **attributes: Any) -> Iterator[None]:
    before = {name: vars(holder)[name] for name in attributes if name in vars(holder)}
    vars(holder).update(attributes)
    try:
        yield
    finally:
        for name in attributes:
            del vars(holder)[name]
        vars(holder).update(before)


def _assign(assign: Callable[..., Any], asked: list[Any], *args: Any, **options: Any) -> Any:
    """Assign boxes; on a picture without a sure one, all are ignored, which assigners would make background."""
    given = inspect.signature(assign).bind(*args, **options).arguments
    found = assign(*args, **options)
    asked.append(found)
    if len(given['gt_instances']) == 0:
        found.gt_inds.fill_(-1)
    return found


def _segments(network: nn.Module) -> bool:
    return hasattr(network, 'decode_head')


def _assigners(student: nn.Module) -> list[Any]:
    values = [value for module in student.modules() for value in vars(module).values()]
    members = [one for value in values for one in (value if isinstance(value, (list, tuple)) else [value])]
    return list({id(one): one for one in members if callable(getattr(one, 'assign', None))}.values())


def _set(sample: Sample, **fields_: Any) -> None:
    for name, value in fields_.items():
        setattr(sample, name, value)


def _times(weight: float, value: Tensor | Sequence[Tensor]) -> Any:
    return weight * value if isinstance(value, Tensor) else [weight * one for one in value]


def check_labeller(option: TeacherOption, traced: Traced) -> None:
    """Refuse a teacher that cannot label the student's pictures."""
    reasons = {
        'has features alone': traced.features_alone,
        f'sees another size ({option.key}.scale or fit)': option.grid is not None,
        f'may have other classes ({option.key}.allow_other_classes)': option.allow_other_classes,
    }
    for reason in (text for text, holds in reasons.items() if holds):
        raise ValueError(f'{KEY}: {option.key} {reason}, so it cannot label the pictures: remove {KEY}.')
    check_unsure_boxes(option)


def check_unsure_boxes(option: TeacherOption) -> None:
    """Refuse a detector whose own test settings leave out the boxes that are to be ignored."""
    test = option.config.model.get('test_cfg') or {}
    for key, settings in (('test_cfg', test), ('test_cfg.rcnn', test.get('rcnn') or {})):
        if (least := settings.get('score_thr') or 0) > UNSURE:
            raise ValueError(
                f'{option.key}.{key}.score_thr={least} hides boxes below it, so that objects of which the teacher is '
                f'unsure would become background. Set {option.key}.{key}.score_thr={UNSURE}.'
            )


def check_pairs(pairs: ClassPairs, student: nn.Module) -> None:
    """Refuse a detector that does not know all classes of the student: their objects would become background."""
    if pairs.unknown and not _segments(student):
        names = some([pairs.student[one] for one in pairs.unknown])
        raise ValueError(
            f'{KEY}: the teacher does not know {names} ({pairs.key}), so these objects would become background on the '
            f'pictures without labels. Remove {KEY}: the distillers teach on these pictures without it.'
        )
