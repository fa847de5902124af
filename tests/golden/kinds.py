"""The one table of golden kinds, and the one table of tolerances.

A kind is a function from a file's arrays and a dtype to the results that the file stores, by the name of the stored
array; it calls what the distillers call. A new method is a row in METHODS, its kinds and its tolerances.
"""

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
from mmengine.structures import BaseDataElement, InstanceData
from torch import Tensor

from mmdistill_dense.distillers import FRS, KDDETR, AfDCD, CrossKD, DeFeat
from mmdistill_dense.distillers.crosskd import Targets, form_of
from mmdistill_dense.losses import (
    aligned_scale,
    channel_moments,
    dense_contrast,
    feature_richness,
    softmax_divergence,
    standardised,
)
from tests.golden import class_map, freekd, maskd, pcd, pcd_recipe, pcd_teacher, trajectories, vectors
from tests.golden.arrays import Arrays, leaf, tensor

Kind = Callable[[Arrays, torch.dtype], dict[str, Tensor]]


def afdcd_contrast(arrays: Arrays, dtype: torch.dtype) -> dict[str, Tensor]:
    student, teacher = leaf(arrays['student'], dtype), tensor(arrays['teacher'], dtype)
    contrast, _, full = str(arrays['variant']).partition('_')
    crop = int(arrays['crop']) or None
    patch = tuple(arrays['patch'].tolist())
    loss = dense_contrast(
        student[:, :, :crop, :crop],
        teacher[:, :, :crop, :crop],
        contrast=contrast,
        negatives='all' if full else 'other_groups',
        groups=int(arrays['groups']),
        temperature=float(arrays['tau']),
        pool_size=int(arrays['pool']),
        patch_size=None if patch == (0, 0) else patch,
    )
    loss.backward()
    return {'loss': loss, 'grad_student': student.grad}


def afdcd_module(arrays: Arrays, dtype: torch.dtype) -> dict[str, Tensor]:
    """Run the whole distiller, unweighted, with the file's weights and mask."""
    feat, teacher = leaf(arrays['feat_s'], dtype), tensor(arrays['feat_t'], dtype)
    distiller = AfDCD(
        'tap',
        projector='enhanced' if arrays['enhance'] else 'plain',
        groups=int(arrays['groups']),
        temperature=float(arrays['tau']),
        pool_size=int(arrays['pool']),
        patch_size=tuple(arrays['patch'].tolist()),
        fd_weight=1.0,
        fd_reduction='sum',
        ctr_weight=1.0,
    )
    distiller.setup({'tap': [feat[:1].shape]}, {'tap': [teacher[:1].shape]})
    part = distiller.parts[0].to(dtype)
    stored = {name: name.replace('.weight', '_w').replace('.bias', '_b') for name, _ in part.named_parameters()}
    part.load_state_dict({name: torch.from_numpy(arrays[key]) for name, key in stored.items()})
    distiller.keep = lambda shape, level: torch.from_numpy(arrays['keep']).bool()
    rebuilt = []
    part.register_forward_hook(lambda module, args, output: rebuilt.append(output))

    losses = distiller({'tap': [feat]}, {'tap': [teacher]}, None)
    fd, ctr = losses['loss_fd'], losses['loss_ctr']
    total = float(arrays['lam_fd']) * fd + float(arrays['lam_ctr']) * ctr
    grads = torch.autograd.grad(total, list(part.parameters()), retain_graph=True)
    return {
        'recon': rebuilt[0],
        'fd': fd,
        'ctr': ctr,
        'grad_feat_s_fd': torch.autograd.grad(fd, feat, retain_graph=True)[0],
        'grad_feat_s_ctr': torch.autograd.grad(ctr, feat, retain_graph=True)[0],
        'grad_feat_s': torch.autograd.grad(total, feat, retain_graph=True)[0],
        **{f'grad_{key}': grad for key, grad in zip(stored.values(), grads, strict=True)},
        'criterion_grad_norm': torch.stack([grad.norm() for grad in grads]).norm(),
    }


def afdcd_kd(arrays: Arrays, dtype: torch.dtype) -> dict[str, Tensor]:
    student = leaf(arrays['student_logits'], dtype)
    teacher = tensor(arrays['teacher_logits'], dtype)
    loss = softmax_divergence(student, teacher, temperature=float(arrays['temperature']))
    loss.backward()
    return {'loss': loss, 'grad_student': student.grad}


def frs(arrays: Arrays, dtype: torch.dtype) -> dict[str, Tensor]:
    """Run the distiller on maps behind their convolution."""
    levels = range(int(arrays['num_levels']))
    student = {tap: [leaf(arrays[f'level{level}_{name}'], dtype) for level in levels]
               for tap, name in (('neck', 'student'), ('bbox_head[0]', 'student_score'))}  # fmt: skip
    teacher = {tap: [tensor(arrays[f'level{level}_{name}'], dtype) for level in levels]
               for tap, name in (('neck', 'teacher'), ('bbox_head[0]', 'teacher_score'))}  # fmt: skip
    weights = {name: float(arrays[name]) for name in ('feature_weight', 'class_weight')}
    distiller = FRS(align='none', **weights)
    distiller.setup(
        *({tap: [one[:1].shape for one in maps] for tap, maps in side.items()} for side in (student, teacher))
    )
    found = distiller(student, teacher, None)
    torch.stack(list(found.values())).sum().backward()
    for level in levels:
        found[f'level{level}_mask'] = feature_richness(teacher['bbox_head[0]'][level])
        found[f'level{level}_grad_student'] = student['neck'][level].grad
        found[f'level{level}_grad_student_score'] = student['bbox_head[0]'][level].grad
    return found


def defeat_neck(arrays: Arrays, dtype: torch.dtype) -> dict[str, Tensor]:
    """Run the distiller on maps behind their convolution, with boxes in pixels."""
    levels = range(int(arrays['num_levels']))
    student = [leaf(arrays[f'level{level}_student'], dtype) for level in levels]
    teacher = [tensor(arrays[f'level{level}_teacher'], dtype) for level in levels]
    samples = []
    for picture in range(int(arrays['batch'])):
        sample = BaseDataElement(metainfo=dict(batch_input_shape=tuple(arrays['image_size'].tolist())))
        sample.gt_instances = InstanceData(bboxes=torch.from_numpy(arrays[f'boxes{picture}']).reshape(-1, 4))
        samples.append(sample)
    weights = {name: float(arrays[name]) for name in ('foreground_weight', 'background_weight')}
    distiller = DeFeat(align='none', **weights)
    distiller.setup(*({'neck': [one[:1].shape for one in maps]} for maps in (student, teacher)))
    found = distiller({'neck': student}, {'neck': teacher}, samples)
    torch.stack(list(found.values())).sum().backward()
    for level in levels:
        found[f'level{level}_mask'] = distiller.foreground(student[level], samples, level)
        found[f'level{level}_grad_student'] = student[level].grad
    return found


def defeat_head(arrays: Arrays, dtype: torch.dtype) -> dict[str, Tensor]:
    """The head term, which no distiller has: the divergence of RoIHeadKD on the rows of either kind."""
    student, teacher = leaf(arrays['student'], dtype), tensor(arrays['teacher'], dtype)
    background = torch.from_numpy(arrays['labels'] == int(arrays['num_classes']))
    found = {}
    for name, rows in (('foreground', ~background), ('background', background)):
        value = softmax_divergence(student[rows], teacher[rows], temperature=float(arrays['temperature']))
        found[f'loss_{name}'] = float(arrays[f'{name}_weight']) * value
    torch.stack(list(found.values())).sum().backward()
    return {**found, 'grad_student': student.grad}


def logit_std(arrays: Arrays, dtype: torch.dtype) -> dict[str, Tensor]:
    student = leaf(arrays['student_logits'], dtype)
    teacher = tensor(arrays['teacher_logits'], dtype)
    rows = (standardised(x, eps=float(arrays['eps'])) for x in (student, teacher))
    loss = float(arrays['loss_weight']) * softmax_divergence(*rows, temperature=float(arrays['temperature']))
    loss.backward()
    return {'loss': loss, 'grad_student': student.grad}


def crosskd_align(arrays: Arrays, dtype: torch.dtype) -> dict[str, Tensor]:
    """Of one process."""
    student, teacher = leaf(arrays['student'], dtype), tensor(arrays['teacher'], dtype)
    aligned = aligned_scale(student, *(channel_moments(x)[None] for x in (student, teacher)), eps=float(arrays['eps']))
    loss = (aligned * tensor(arrays['upstream'], dtype)).sum()
    loss.backward()
    return {'aligned': aligned, 'loss': loss, 'grad_student': student.grad}


CROSSKD_HEADS = {'gfl': 'GFLHead', 'retinanet': 'RetinaHead', 'atss': 'ATSSHead', 'fcos': 'FCOSHead'}


def _crosskd_head(arrays: Arrays, kind: str) -> tuple[Any, int]:
    """A head of mmdet with the stored weights behind the held maps, and how many convolutions are before these."""
    register_all_modules(init_default_scope=False)
    held, channels, strides = int(arrays['relu']), len(arrays['cls_pred_w'][0]), arrays['strides'].tolist()
    option: dict[str, Any] = dict(type=CROSSKD_HEADS[kind], num_classes=int(arrays['num_classes']))
    option.update(in_channels=channels, feat_channels=channels, stacked_convs=held + int(arrays['remaining']))
    groups = int(arrays['gn_groups'])
    option['norm_cfg'] = dict(type='GN', num_groups=groups) if groups else None
    if kind == 'fcos':
        option.update(strides=strides, norm_on_bbox=bool(arrays['norm_on_bbox']), conv_bias=not groups)
        option['regress_ranges'] = [(0, 1)] * len(strides)
    else:
        anchors = len(arrays['cls_pred_b']) // int(arrays['num_classes'])
        ratios = [1.0 + one for one in range(anchors)]
        option['anchor_generator'] = dict(type='AnchorGenerator', ratios=ratios, scales=[4], strides=strides)
        option['loss_cls'] = dict(type='FocalLoss', use_sigmoid=True)
    if kind == 'gfl':
        option.update(reg_max=int(arrays['reg_max']), loss_cls=dict(type='QualityFocalLoss', use_sigmoid=True))
    if kind in ('atss', 'retinanet'):
        option['bbox_coder'] = dict(type='DeltaXYWHBBoxCoder', target_stds=arrays['stds'].tolist())
    head = MODELS.build(dict(option, _scope_='mmdet')).eval().requires_grad_(False)
    form = form_of(type(head))
    layers = {'cls_pred': getattr(head, form.scores), 'reg_pred': getattr(head, form.boxes)}
    if form.centre:
        layers['centre_pred'] = getattr(head, form.centre)
    for tower in ('cls', 'reg'):
        for number, conv in enumerate(list(getattr(head, f'{tower}_convs'))[held:]):
            layers[f'{tower}_conv{number}'] = conv.conv
            layers[f'{tower}_conv{number}_gn'] = conv.norm if groups else conv.conv
    for name, layer in layers.items():
        for end, parameter in (('w', 'weight'), ('b', 'bias')):
            if f'{name}_{end}' in arrays:
                getattr(layer, parameter).copy_(torch.from_numpy(arrays[f'{name}_{end}']))
    for scale, value in zip(getattr(head, 'scales', []), arrays['scales'].tolist(), strict=False):
        scale.scale.fill_(value)
    return head, held


def crosskd_head(kind: str) -> Kind:
    """Run the distiller's parts on held maps, with stored targets."""

    def compute(arrays: Arrays, dtype: torch.dtype) -> dict[str, Tensor]:
        head, held = _crosskd_head(arrays, kind)
        head.to(dtype)
        levels = range(int(arrays['num_levels']))
        weights = {f'{one}_weight': float(arrays[f'weight_{name}'])
                   for one, name in (('class', 'cls'), ('box', 'reg'), ('centre', 'centre'))}  # fmt: skip
        distiller = CrossKD(reuse_from=held, beta=float(arrays['beta']), eps=float(arrays['eps']), **weights)
        towers = [[leaf(arrays[f'level{n}_student_{one}'], dtype) for n in levels] for one in ('cls', 'reg')]
        names = [[f'level{n}_teacher_{one}' for n in levels] for one in ('cls', 'reg')]
        own = [[tensor(arrays[name], dtype) for name in tower] for tower in names]

        def listed(name: str) -> list[Tensor] | None:
            found = [arrays.get(f'level{n}_{name}') for n in levels]
            return None if found[0] is None else [tensor(one, dtype) for one in found]

        total = torch.tensor(float(arrays['avg_factor']), dtype=dtype)
        targets = Targets(listed('anchors') or listed('points'), listed('label_weights'), listed('positive'), total)
        if kind == 'gfl':
            targets = targets._replace(priors=[None for _ in levels])
        crossed = distiller.predict(head, [distiller.aligned(*maps) for maps in zip(towers, own, strict=True)])
        taught = distiller.predict(head, own)
        found = distiller.compare(head, crossed, taught, targets)
        results = {name.replace('_box', '_reg'): values for name, values in found.items()}
        results['loss'] = sum(distiller.weights_of(head)[name] * values.sum() for name, values in found.items())
        results['loss'].backward()
        for n in levels:
            for place, one in enumerate(('score', 'box')):
                results[f'level{n}_cross_{one}'] = crossed[place][n]
                results[f'level{n}_teacher_{one}'] = taught[place][n]
            for place, one in enumerate(('cls', 'reg')):
                results[f'level{n}_grad_student_{one}'] = towers[place][n].grad
        return results

    return compute


def kddetr(arrays: Arrays, dtype: torch.dtype) -> dict[str, Tensor]:
    student = [leaf(arrays[f'student_{name}'], dtype) for name in ('logits', 'boxes')]
    teacher = [tensor(arrays[f'teacher_{name}'], dtype) for name in ('logits', 'boxes')]
    weights = {name: float(arrays[name]) for name in ('temperature', 'class_weight', 'box_weight', 'giou_weight')}
    distiller = KDDETR(reduction=str(arrays['reduction']), **weights)
    found = distiller.named(distiller.terms(*student, *teacher))
    loss = torch.stack(list(found.values())).sum()
    loss.backward()
    return {**found, 'loss': loss, 'grad_student_logits': student[0].grad, 'grad_student_boxes': student[1].grad}


def load_npz(path: Path) -> Arrays:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


@dataclass(frozen=True)
class Method:
    """How the kind of a method's files is told, and what computes each kind."""

    kinds: dict[str, Kind]
    kind_of: Callable[[Path, Arrays], str] = lambda path, arrays: str(arrays['kind'])


def _of(module: ModuleType, names: str) -> dict[str, Kind]:
    """The kinds that are functions of these names."""
    return {name: getattr(module, name) for name in names.split()}


METHODS = {
    'afdcd': Method({'ctr': afdcd_contrast, 'module': afdcd_module, 'kd': afdcd_kd}),
    'class_map': Method(_of(class_map, 'softmax sigmoid mass'), class_map.kind_of),
    'crosskd': Method({'align': crosskd_align, **{kind: crosskd_head(kind) for kind in CROSSKD_HEADS}}),
    'defeat': Method({'neck': defeat_neck, 'head': defeat_head}),
    'freekd': Method(_of(freekd, 'haar prompt distill')),
    'frs': Method({'frs': frs}),
    'kddetr': Method({'kddetr': kddetr}),
    'logit_std': Method({'logit_std': logit_std}),
    'maskd': Method(
        _of(maskd, 'stage1 dice dist')
        | {'stage2_det': maskd.stage2_detection, 'stage2_seg': maskd.stage2_segmentation},
        maskd.kind_of,
    ),
    'pcd': Method(
        _of(pcd, 'infonce two_view queue mhsa student_head plugin')
        | _of(pcd_teacher, 'spatial_adaptor end_to_end')
        | _of(pcd_recipe, 'lars schedule transforms'),
        lambda path, arrays: path.stem,
    ),
    'pcd_vector': Method({'vector': vectors.vector}),
    'seed': Method({'seed': vectors.seed, 'near': vectors.seed, 'simreg': vectors.simreg}, vectors.kind_of),
    'trajectories': Method(_of(trajectories, 'afdcd maskd pcd')),
}


class Tolerance(NamedTuple):
    """What is allowed: ``relative`` multiplies ``max |stored|``, ``absolute`` is added; for float64 and for float32."""

    relative: tuple[float, float]
    absolute: tuple[float, float]

    def allowed(self, stored: np.ndarray, dtype: torch.dtype) -> float:
        index = (torch.float64, torch.float32).index(dtype)
        return self.absolute[index] + self.relative[index] * float(np.abs(stored).max())


# afdcd: "fp64 loss 1e-10, fp64 gradient 2e-7 of the maximum; fp32 loss 2e-6; fp32 gradient 5e-5 of the maximum
# (observed <= 4e-6; `*_large` 1e-4); fp32 gradients of the module files 1e-3 of the maximum (observed 1.5e-4: almost
# one-hot rows amplify the rounding of P by 1/tau)". Ours keeps 5e-5 on large values too; `recon`, stored in fp32, is
# taken as a gradient, the norm as the gradients in it. The contrast's gradient can be 0 in exact arithmetic (all of P
# below all of F_t: the signs are equal and the weights sum to 0), what is stored then is rounding, 1e-16: hence the
# absolute part, which is far below 1e-3 of any other.
# maskd: "loss rtol 1e-5 (float32 run) or 1e-9 (float64 run on the stored inputs); gradients: max abs difference <=
# 1e-5 x max abs of the stored array (1e-6 in a float64 run)"; "stage-1 dice is stored in float32: compare at 1e-6".
# Masks, their weights and the weight map, of which nothing is said, are taken as gradients.
# class_map: "float64 run 1e-12 + 1e-9 * max|x|; float32 run: losses 1e-9 + 1e-5 * |x|, maps and gradients
# 1e-12 + 1e-4 * max|x|; labels and pairs exactly".
# crosskd: as class_map, without labels.
# defeat, freekd, frs, kddetr: "float64 run 1e-12 + 1e-9 * max|x|; float32 run: losses 1e-9 + 1e-5 * |x|, maps and
# gradients 1e-12 + 2e-5 * max|x|"; DeFeat's masks exactly.
# logit_std: as class_map.
# pcd: float64 "1e-10 + 1e-9 * max"; float32 "loss rtol 2e-6, atol 2e-6, gradients and maps 2e-5 * max (`sharp_*`
# gradients: 2e-4)", "`easy_*` relatively, rtol 1e-5 in float32, 1e-9 in float64". Pictures may be off by one level, of
# which the file allows up to 12: ours come from the same library. The statistics of 4000 crops scatter: three to
# four standard errors are allowed.
# trajectories: "the same curve (relative 1e-10) and the same weights after it (relative to the largest value, 1e-9)" in
# float64, "measured: 5e-16 and 3e-15"; float32, of which nothing is said, adds up twelve steps.
#
# Kind / arrays / relative of float64 and float32, absolute of both where there is one, for ``max |computed - stored|``.
# The first row that matches counts.
LOSS, MAP, WIDE_MAP = '1e-9 1e-5 1e-12 1e-9', '1e-9 2e-5 1e-12 1e-12', '1e-9 1e-4 1e-12 1e-12'
PCD, TIGHT = '1e-9 2e-5 1e-10 0', '1e-9 2e-6 1e-10 2e-6'
TOLERANCES = {
    'afdcd': """
        * / loss / 1e-10 2e-6
        module / fd ctr / 1e-10 2e-6
        module / recon / 2e-7 5e-5
        module / criterion_grad_norm / 1e-10 1e-3
        module / grad_feat_s_ctr / 2e-7 1e-3 1e-14 1e-6
        module / grad_* / 2e-7 1e-3
        * / grad_* / 2e-7 5e-5""",
    'class_map': f"""
        * / loss loss_weighed loss_positions loss_elements / {LOSS}
        * / student_groups teacher_groups grad_* row_weight best_mass / {WIDE_MAP}""",
    'crosskd': f"""
        * / loss loss_* / {LOSS}
        * / aligned grad_student level*_cross_* level*_teacher_score level*_teacher_box level*_grad_* / {WIDE_MAP}""",
    'defeat': f"""
        * / loss_* / {LOSS}
        * / *grad_student / {MAP}
        neck / level*_mask / 0 0 0.01 0.01""",
    'freekd': f"""
        * / loss level*_loss level*_terms dice / {LOSS}
        * / ll high* out *mask* *grad_* / {MAP}
        haar / x / {MAP}""",
    'frs': f"""
        * / loss_* / {LOSS}
        * / level*_mask level*_grad_* / {MAP}""",
    'kddetr': f"""
        * / loss* / {LOSS}
        * / grad_* / {MAP}""",
    'logit_std': f"""
        * / loss / {LOSS}
        * / grad_student / {WIDE_MAP}""",
    'maskd': """
        * / *loss / 1e-9 1e-5
        dice / dice / 1e-9 1e-5
        stage1 / dice / 1e-6 1e-6
        * / *grad_* / 1e-6 1e-5
        stage1 / mask prob out / 1e-6 1e-5
        stage2_* / *weight_map *mask_teacher *mask_used / 1e-6 1e-5
        stage2_seg / mask / 1e-6 1e-5
        stage2_det / *prob / 1e-6 1e-5""",
    'pcd': f"""
        transforms / rrc_area_mean_std / 0 0 0.012 0.012
        transforms / rrc_logratio_mean_std / 0 0 0.01 0.01
        transforms / rrc_area_quantiles* / 0 0 0.03 0.03
        transforms / rrc_center_std* / 0 0 0.006 0.006
        transforms / composite_normalized / 0 0 0.02 0.02
        transforms / crop crop_up flip gray gray_luma solarize composite brightness_[0-9]* contrast_[0-9]* / 0 0 1 1
        transforms / saturation_[0-9]* hue_[0-9]* blur_[0-9]* / 0 0 1 1
        * / ptr_after ptr_end monitor_rank monitor_top[15] *_ptr[1-9]* *_filled[1-9]* mask / 0 0 0.01 0.01
        infonce / easy_loss easy_loss_map easy_grad_s / 1e-9 1e-5
        infonce / sharp_grad_s / 1e-9 2e-4 1e-10 0
        infonce / *_loss / {TIGHT}
        infonce / *_grad_s *_loss_map *_pos *_lse / {PCD}
        two_view / loss_* / {TIGHT}
        two_view / grad_* keys queue_after / {PCD}
        plugin / sub_loss / {TIGHT}
        plugin / *_resized sub_grad_s / {PCD}
        end_to_end / losses / {TIGHT}
        end_to_end / grad1/* student_end/* queue_end / {PCD}
        queue / *_queue[1-9]* / {PCD}
        mhsa / y / {PCD}
        student_head / y_train y_eval grad_x grad/* after/* / {PCD}
        spatial_adaptor / */map */map_keep_last_bn */head_of_pooled* / {PCD}
        lars / conv_[1-9]* linear_[1-9]* bias_[1-9]* bn_[1-9]* zero_[1-9]* released_* / {PCD}
        schedule / lr / {PCD}""",
    'pcd_vector': f"""
        * / loss row_loss / {LOSS}
        * / keys grad_* / {MAP}""",
    'seed': f"""
        near / loss row_divergence / 1e-9 0 1e-12 1e-6
        near / grad_student / 1e-9 1e-3 1e-12 1e-12
        * / loss row_divergence / {LOSS}
        * / grad_student / {MAP}""",
    'trajectories': """
        * / curve / 1e-10 1e-4
        * / *_after* / 1e-9 1e-3""",
}


def tolerances_of(method: str, kind: str, arrays: Arrays) -> dict[str, Tolerance]:
    """Return the tolerance of each stored array that is a result."""
    rows = [line.strip().split(' / ') for line in TOLERANCES[method].strip().splitlines()]
    found = {}
    for name in arrays:
        for kinds, patterns, numbers in rows:
            if fnmatch(kind, kinds) and any(fnmatch(name, pattern) for pattern in patterns.split()):
                values = [*map(float, numbers.split()), 0.0, 0.0]
                found[name] = Tolerance((values[0], values[1]), (values[2], values[3]))
                break
    return found
