"""The kinds of methods that compare maps, scores and head outputs: they call what the distillers call."""

from collections.abc import Callable
from typing import Any

import torch
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
from mmengine.structures import BaseDataElement, InstanceData
from torch import Tensor

from mmdistill_dense import losses
from mmdistill_dense.distillers import FRS, KDDETR, AfDCD, CrossKD, DeFeat, FreeKD, MasKD
from mmdistill_dense.distillers.crosskd import Targets, form_of
from mmdistill_dense.distillers.freekd import band_gate
from mmdistill_dense.distillers.maskd.token_files import BRANCH as PROB
from mmdistill_dense.distillers.maskd.token_files import TOKEN
from mmdistill_dense.losses import Branch, softmax_divergence
from mmdistill_dense.networks.class_pairs import ClassPairs, combine
from tests.golden.reading import File, Results, losses_of, numbered, set_up, with_gradients

# AfDCD


def afdcd_contrast(file: File) -> Results:
    student, teacher = file.leaf('student'), file.tensor('teacher')
    contrast, _, full = str(file['variant']).partition('_')
    crop = int(file['crop']) or None
    patch = tuple(file['patch'].tolist())
    loss = losses.dense_contrast(
        student[:, :, :crop, :crop],
        teacher[:, :, :crop, :crop],
        contrast=contrast,
        negatives='all' if full else 'other_groups',
        groups=int(file['groups']),
        temperature=float(file['tau']),
        pool_size=int(file['pool']),
        patch_size=None if patch == (0, 0) else patch,
    )
    return with_gradients(loss, student=student)


def afdcd_module(file: File) -> Results:
    """Run the whole distiller, unweighted, with the file's weights and mask."""
    feat, teacher = file.leaf('feat_s'), file.tensor('feat_t')
    distiller = AfDCD(
        'tap',
        projector='enhanced' if file['enhance'] else 'plain',
        groups=int(file['groups']),
        temperature=float(file['tau']),
        pool_size=int(file['pool']),
        patch_size=tuple(file['patch'].tolist()),
        fd_weight=1.0,
        fd_reduction='sum',
        ctr_weight=1.0,
    )
    part = set_up(distiller, [feat], [teacher]).parts[0]
    stored = {name: name.replace('.weight', '_w').replace('.bias', '_b') for name, _ in part.named_parameters()}
    part.load_state_dict({name: torch.from_numpy(file[key]) for name, key in stored.items()})
    distiller.keep = lambda shape, level: torch.from_numpy(file['keep']).bool()
    rebuilt = []
    part.register_forward_hook(lambda module, args, output: rebuilt.append(output))
    actual = losses_of(distiller, [feat], [teacher])
    fd, ctr = actual['loss_fd'], actual['loss_ctr']
    total = float(file['lam_fd']) * fd + float(file['lam_ctr']) * ctr
    grads = torch.autograd.grad(total, list(part.parameters()), retain_graph=True)
    terms = {'_fd': fd, '_ctr': ctr, '': total}
    return {
        **{f'grad_{key}': grad for key, grad in zip(stored.values(), grads, strict=True)},
        **{f'grad_feat_s{n}': torch.autograd.grad(x, feat, retain_graph=True)[0] for n, x in terms.items()},
        'recon': rebuilt[0],
        'fd': fd,
        'ctr': ctr,
        'criterion_grad_norm': torch.stack([grad.norm() for grad in grads]).norm(),
    }


def afdcd_kd(file: File) -> Results:
    student, teacher = file.leaf('student_logits'), file.tensor('teacher_logits')
    return with_gradients(softmax_divergence(student, teacher, **file.numbers('temperature')), student=student)


# Distances of maps and of scores


def logit_std(file: File) -> Results:
    student, teacher = file.leaf('student_logits'), file.tensor('teacher_logits')
    rows = (losses.standardised(x, **file.numbers('eps')) for x in (student, teacher))
    loss = float(file['loss_weight']) * softmax_divergence(*rows, **file.numbers('temperature'))
    return with_gradients(loss, student=student)


def dist(file: File) -> Results:
    student, teacher = file.leaf('student'), file.tensor('teacher')
    return with_gradients(losses.correlation_distance(student, teacher, **file.numbers('beta gamma')), student=student)


def frs(file: File) -> Results:
    taps = 'neck', 'bbox_head[0]'
    student = dict(zip(taps, map(file.leaves, ('student', 'student_score')), strict=True))
    teacher = dict(zip(taps, map(file.levels, ('teacher', 'teacher_score')), strict=True))
    distiller = FRS(align='none', **file.numbers('feature_weight class_weight'))
    distiller.setup(*({tap: [x[:1].shape for x in maps] for tap, maps in side.items()} for side in (student, teacher)))
    actual = distiller(student, teacher, None)
    torch.stack(list(actual.values())).sum().backward()
    for level, (edges, score) in enumerate(zip(*student.values(), strict=True)):
        actual[f'level{level}_mask'] = losses.feature_richness(teacher['bbox_head[0]'][level])
        actual[f'level{level}_grad_student'], actual[f'level{level}_grad_student_score'] = edges.grad, score.grad
    return actual


def defeat_neck(file: File) -> Results:
    """Run the distiller on maps behind their convolution, with boxes in pixels."""
    student, teacher, samples = file.leaves('student'), file.levels('teacher'), []
    for picture in range(int(file['batch'])):
        sample = BaseDataElement(metainfo=dict(batch_input_shape=tuple(file['image_size'].tolist())))
        sample.gt_instances = InstanceData(bboxes=torch.from_numpy(file[f'boxes{picture}']).reshape(-1, 4))
        samples.append(sample)
    weights = file.numbers('foreground_weight background_weight')
    distiller = set_up(DeFeat(align='none', **weights), student, teacher, tap='neck')
    actual = distiller({'neck': student}, {'neck': teacher}, samples)
    torch.stack(list(actual.values())).sum().backward()
    for level, student_level in enumerate(student):
        actual[f'level{level}_mask'] = distiller.foreground(student_level, samples, level)
        actual[f'level{level}_grad_student'] = student_level.grad
    return actual


def defeat_head(file: File) -> Results:
    """The head term, which no distiller has: the divergence of RoIHeadKD on the rows of either kind."""
    student, teacher = file.leaf('student'), file.tensor('teacher')
    background = torch.from_numpy(file['labels'] == int(file['num_classes']))
    actual = {}
    for name, rows in (('foreground', ~background), ('background', background)):
        value = softmax_divergence(student[rows], teacher[rows], **file.numbers('temperature'))
        actual[f'loss_{name}'] = float(file[f'{name}_weight']) * value
    return {**with_gradients(torch.stack(list(actual.values())).sum(), student=student), **actual}


def kddetr(file: File) -> Results:
    names = 'logits', 'boxes'
    student, teacher = [file.leaf(f'student_{n}') for n in names], [file.tensor(f'teacher_{n}') for n in names]
    weights = file.numbers('temperature class_weight box_weight giou_weight')
    distiller = KDDETR(reduction=str(file['reduction']), **weights)
    actual = distiller.named(distiller.terms(student, [x[None] for x in teacher]))
    leaves = {f'student_{name}': leaf for name, leaf in zip(names, student, strict=True)}
    return actual | with_gradients(torch.stack(list(actual.values())).sum(), **leaves)


# CrossKD

CROSSKD_HEADS = {'gfl': 'GFLHead', 'retinanet': 'RetinaHead', 'atss': 'ATSSHead', 'fcos': 'FCOSHead'}


def crosskd_align(file: File) -> Results:
    student, teacher = file.leaf('student'), file.tensor('teacher')
    moments = (losses.channel_moments(x)[None] for x in (student, teacher))
    aligned = losses.aligned_scale(student, *moments, **file.numbers('eps'))
    return with_gradients((aligned * file.tensor('upstream')).sum(), student=student) | {'aligned': aligned}


def _crosskd_head(file: File, kind: str) -> tuple[Any, int]:
    """A head of mmdet with the stored weights behind the held maps, and how many convolutions are before these."""
    register_all_modules(init_default_scope=False)
    relu_count, channels, strides = int(file['relu']), len(file['cls_pred_w'][0]), file['strides'].tolist()
    option: dict[str, Any] = dict(type=CROSSKD_HEADS[kind], num_classes=int(file['num_classes']))
    option.update(in_channels=channels, feat_channels=channels, stacked_convs=relu_count + int(file['remaining']))
    groups = int(file['gn_groups'])
    option['norm_cfg'] = dict(type='GN', num_groups=groups) if groups else None
    if kind == 'fcos':
        option.update(strides=strides, norm_on_bbox=bool(file['norm_on_bbox']), conv_bias=not groups)
        option['regress_ranges'] = [(0, 1)] * len(strides)
    else:
        anchors = len(file['cls_pred_b']) // int(file['num_classes'])
        ratios = [1.0 + number for number in range(anchors)]
        option['anchor_generator'] = dict(type='AnchorGenerator', ratios=ratios, scales=[4], strides=strides)
        option['loss_cls'] = dict(type='FocalLoss', use_sigmoid=True)
    if kind == 'gfl':
        option.update(reg_max=int(file['reg_max']), loss_cls=dict(type='QualityFocalLoss', use_sigmoid=True))
    if kind in ('atss', 'retinanet'):
        option['bbox_coder'] = dict(type='DeltaXYWHBBoxCoder', target_stds=file['stds'].tolist())
    head = MODELS.build(dict(option, _scope_='mmdet')).eval().requires_grad_(False)
    form = form_of(type(head))
    layers = {'cls_pred': getattr(head, form.scores), 'reg_pred': getattr(head, form.boxes)}
    if form.centre:
        layers['centre_pred'] = getattr(head, form.centre)
    for tower in ('cls', 'reg'):
        for number, conv in enumerate(list(getattr(head, f'{tower}_convs'))[relu_count:]):
            layers[f'{tower}_conv{number}'] = conv.conv
            layers[f'{tower}_conv{number}_gn'] = conv.norm if groups else conv.conv
    for name, layer in layers.items():
        for end, parameter in (('w', 'weight'), ('b', 'bias')):
            if f'{name}_{end}' in file:
                getattr(layer, parameter).copy_(torch.from_numpy(file[f'{name}_{end}']))
    for scale, value in zip(getattr(head, 'scales', []), file['scales'].tolist(), strict=False):
        scale.scale.fill_(value)
    return head.to(file.dtype), relu_count


def crosskd_head(kind: str) -> Callable[[File], Results]:
    """Run the distiller's parts on held maps, with stored targets."""

    def compute(file: File) -> Results:
        head, held = _crosskd_head(file, kind)
        weights = {f'{one}_weight': float(file[f'weight_{name}'])
                   for one, name in (('class', 'cls'), ('box', 'reg'), ('centre', 'centre'))}  # fmt: skip
        distiller = CrossKD(reuse_from=held, **file.numbers('beta eps'), **weights)
        towers = [file.leaves(f'student_{one}') for one in ('cls', 'reg')]
        own = [file.levels(f'teacher_{one}') for one in ('cls', 'reg')]

        def listed(name: str) -> list[Tensor] | None:
            return file.levels(name) if f'level0_{name}' in file else None

        total = torch.tensor(float(file['avg_factor']), dtype=file.dtype)
        targets = Targets(listed('anchors') or listed('points'), listed('label_weights'), listed('positive'), total)
        if kind == 'gfl':
            targets = targets._replace(priors=[None for _ in towers[0]])
        crossed = distiller.predict(head, [distiller.aligned(*maps) for maps in zip(towers, own, strict=True)])
        taught = distiller.predict(head, own)
        found = distiller.compare(head, crossed, taught, targets)
        results = {name.replace('_box', '_reg'): values for name, values in found.items()}
        results['loss'] = sum(distiller.weights_of(head)[name] * values.sum() for name, values in found.items())
        results['loss'].backward()
        for n in range(len(towers[0])):
            for place, one in enumerate(('score', 'box')):
                results[f'level{n}_cross_{one}'] = crossed[place][n]
                results[f'level{n}_teacher_{one}'] = taught[place][n]
            for place, one in enumerate(('cls', 'reg')):
                results[f'level{n}_grad_student_{one}'] = towers[place][n].grad
        return results

    return compute


# FreeKD


def freekd_haar(file: File) -> Results:
    """Beside the bands, ``x``: what the inverse makes of them."""
    x = file.tensor('x')
    low, details = losses.haar(x, int(file['levels']))
    return {'ll': low, 'x': losses.inverse(low, details, x.shape[2:]), **numbered('high', details, 1)}


def freekd_prompt(file: File) -> Results:
    x, tokens = file.leaf('x'), file.leaf('tokens')
    out, masks = band_gate({'0.mask_token': tokens}, 0, x)
    dice = torch.stack([losses.mask_dice(mask) for mask in masks])
    loss = torch.sum(out * file.tensor('upstream'), dtype=torch.float64) + dice.sum()
    return with_gradients(loss, x=x, tokens=tokens) | {'out': out, 'dice': dice} | numbered('mask', masks)


def freekd_distill(file: File) -> Results:
    """Run the whole distiller on all levels; beside it the pieces of each level."""
    students, teachers, tokens = file.leaves('student'), file.levels('teacher'), file.levels('tokens')
    options = dict(steps=int(file['levels']), bands=str(file['bands']), mse_weight=0.0, align='none')
    distiller = FreeKD('tap', num_tokens=len(tokens[0][0]), **file.numbers('loss_weight'), **options)
    set_up(distiller, students, teachers).load_tokens({f'{n}.mask_token': token for n, token in enumerate(tokens)})
    terms = distiller.step({'tap': students}, {'tap': teachers}, None)
    terms['loss_freekd'].backward()
    actual = {'loss': terms['loss_freekd']}
    for n, (student, teacher) in enumerate(zip(students, teachers, strict=True)):
        pieces = {'loss': terms[f'level{n}'], 'grad_student': student.grad}
        pieces['terms'] = losses.frequency_terms(student, teacher, tokens[n], distiller.bands)
        pieces |= numbered('mask', losses.frequency_masks(tokens[n], teacher))
        actual |= {f'level{n}_{name}': value for name, value in pieces.items()}
    return actual


# MasKD

BRANCH = ('prob_conv_weight', 'prob_conv_bias', 'prob_fc_weight', 'prob_fc_bias')


def maskd_stage1(file: File) -> Results:
    """Gate and Dice, differentiated to the tokens, the branch and the map."""
    leaves = {name: file.leaf(name) for name in ('x', 'mask_token', *(name for name in BRANCH if name in file))}
    x, tokens, *branch = leaves.values()
    masks = losses.token_masks(tokens, x)
    weights = losses.mask_weights(Branch(*branch), x) if branch else None
    gated, dice = losses.gate(x, masks, weights), losses.mask_dice(masks, float(file['eps']))
    loss = torch.sum(gated * file.tensor('upstream'), dtype=torch.float64) + dice
    results = with_gradients(loss, **leaves) | {'mask': masks, 'out': gated, 'dice': dice}
    return results if weights is None else {**results, 'prob': weights}


def maskd_stage2_det(file: File) -> Results:
    """Run the whole distiller on all levels; beside it the pieces of each level."""
    levels = [file.below(f'level{number}_') for number in range(int(file['num_levels']))]
    since = int(file['warmup']) if file['custom_mask'] else None
    student_mask = since is not None and int(file['iter']) >= since
    options = dict(weight_mask=bool(file['weight_mask']), student_mask_from=since, **file.numbers('loss_weight'))
    total, actual = _distil(levels, file, **options)
    results = {'loss': total}
    for number, level in enumerate(levels):
        pieces = {**actual[number], **_pieces(level, student_mask, float(file['eps']))}
        results |= {f'level{number}_{name}': value for name, value in pieces.items()}
    return results


def maskd_stage2_seg(file: File) -> Results:
    total, actual = _distil([file], file, weight_mask=False)
    pieces = _pieces(file, False, float(file['eps']))
    return {**actual[0], **pieces, 'mask': pieces['mask_teacher'], 'loss': total}


def _distil(levels: list[File], file: File, **options: Any) -> tuple[Tensor, list[Results]]:
    """Return the distiller's loss, and of each level the unweighted loss and the student's gradient."""
    options |= dict(num_tokens=len(levels[0]['mask_token']), align='none', **file.numbers('eps factor'))
    students, teachers = [level.leaf('student') for level in levels], [level.tensor('teacher') for level in levels]
    distiller = set_up(MasKD('tap', **options), students, teachers)
    names = dict(zip(('mask_token', *BRANCH), (TOKEN, *PROB), strict=True)).items()
    distiller.load_tokens(
        {f'{n}.{key}': level.tensor(name) for n, level in enumerate(levels) for name, key in names if name in level}
    )
    distiller.state.iteration = int(file.get('iter', 0))
    losses = distiller.step({'tap': students}, {'tap': teachers}, None)
    losses['loss_maskd'].backward()
    return losses['loss_maskd'], [{'loss': losses[f'level{i}'], 'grad_student': x.grad} for i, x in enumerate(students)]


def _pieces(level: File, student_mask: bool, eps: float) -> Results:
    names = ('student', 'teacher', 'mask_token', *(name for name in BRANCH if name in level))
    student, teacher, tokens, *branch = map(level.tensor, names)
    masks = losses.token_masks(tokens, teacher)
    used = masks * losses.token_masks(tokens, student) if student_mask else masks
    shares = losses.mask_weights(Branch(*branch), teacher) if branch else None
    results = {'mask_teacher': masks, 'mask_used': used, 'weight_map': losses.pixel_weights(used, shares, eps)[:, 0]}
    return results if shares is None else {**results, 'prob': shares}


def maskd_dice(file: File) -> Results:
    mask = file.leaf('mask')
    actual = with_gradients(losses.mask_dice(mask, float(file['eps'])), mask=mask)
    return {**actual, 'dice': actual['loss']}


# A teacher of other classes


def _pairs(file: File, students: int, teachers: int) -> ClassPairs:
    """The pairs of a file, through names as a config gives them."""
    student, teacher = ([f'{side}{number}' for number in range(n)] for side, n in (('s', students), ('t', teachers)))
    option: dict[str, list[str]] = {}
    for student_class, other in file['pairs'].tolist():
        option.setdefault(student[student_class], []).append(teacher[other])
    return ClassPairs.of(option, student, teacher)


def class_softmax(file: File) -> Results:
    student, teacher = file.leaf('student_logits'), file.tensor('teacher_logits')
    background = int(file['background'])
    pairs = _pairs(file, student.shape[1] - background, teacher.shape[1] - background)
    pairs = pairs.with_background() if background else pairs
    expected = {tuple(pair) for pair in file['all_pairs'].tolist()}
    assert expected <= {(a, b) for group in pairs.groups for a in group.student for b in group.teacher}
    weight, actual = pairs.mass(teacher), Results()
    for suffix, rows in (('', None), ('_weighed', weight)):
        groups = pairs.softmax(student, teacher)
        loss = softmax_divergence(*groups, **file.numbers('temperature'), weight=rows) * float(file['loss_weight'])
        (grad,) = torch.autograd.grad(loss, student)
        actual |= {f'loss{suffix}': loss, f'grad{suffix or "_student"}': grad}
    order = list(range(len(pairs.groups)))
    if background:  # which the file puts last
        last = next(n for n, group in enumerate(pairs.groups) if len(pairs.student) - 1 in group.student)
        order = [index for index in order if index != last] + [last]
    for side, x in (('student', student), ('teacher', teacher)):
        groups = [getattr(group, side) for group in pairs.groups]
        actual[f'{side}_groups'] = combine(x, groups, 'logsumexp')[:, order]
    actual['row_weight'] = torch.ones(file['row_weight'].shape, dtype=file.dtype) if weight is None else weight
    return actual


def class_sigmoid(file: File) -> Results:
    student, teacher = file.leaf('student_scores'), file.tensor('teacher_scores')
    anchors = int(file['anchors'])
    groups = _pairs(file, student.shape[1] // anchors, teacher.shape[1] // anchors).anchors(student, teacher)
    elements, actual = tuple(x.reshape(-1, 1, *x.shape[2:]) for x in groups), Results()
    for name, sides in (('positions', groups), ('elements', elements)):
        loss = float(file['loss_weight']) * losses.sigmoid_divergence(*sides, **file.numbers('temperature'))
        (grad,) = torch.autograd.grad(loss, student, retain_graph=True)
        actual |= {f'loss_{name}': loss, f'grad_{name}': grad}
    return actual


def class_mass(file: File) -> Results:
    scores = file.tensor('teacher_logits').softmax(1)
    pairs = _pairs(file, int(file['pairs'][:, 0].max()) + 2, scores.shape[1])
    return {'best_mass': pairs.summed(scores).amax(1)}
