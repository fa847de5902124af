"""The released formulas of the methods, written literally. The benchmark and the tests compare with them.

Nothing here is used in training. Every intermediate tensor of a formula is allocated.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def afdcd_token_contrast(student: Tensor, teacher: Tensor, groups: int, temperature: float) -> Tensor:
    """Sum over rows of the omni contrast of (patches, tokens, D): all distances, boolean masks, cross-entropy.

    Token = position * groups + group. Candidates of a row: itself and the tokens of the other groups.
    """
    patches, tokens, _ = student.shape
    logits = -torch.cdist(student, teacher.detach(), p=1) / temperature
    group = torch.arange(tokens, device=student.device) % groups
    is_positive = torch.eye(tokens, dtype=torch.bool, device=student.device).repeat(patches, 1, 1)
    is_negative = (group[:, None] != group[None]).repeat(patches, 1, 1)
    positives = logits[is_positive].view(patches * tokens, 1)
    negatives = logits[is_negative].view(patches * tokens, -1)
    rows = torch.cat([positives, negatives], 1)
    return F.cross_entropy(rows, rows.new_zeros(len(rows), dtype=torch.long), reduction='sum')


def afdcd_contrast(
    student: Tensor, teacher: Tensor, groups: int, temperature: float, pool_size: int, patch_size: Sequence[int]
) -> Tensor:
    """Omni contrast of (B, C, H, W) maps whose pooled size is a multiple of the patch."""
    if pool_size:
        student, teacher = F.max_pool2d(student, pool_size), F.max_pool2d(teacher, pool_size)
    batch, _, height, width = student.shape
    students, teachers = (afdcd_tokens(x, groups, patch_size) for x in (student, teacher))
    return afdcd_token_contrast(students, teachers, groups, temperature) / (height * width) / batch


def afdcd_tokens(x: Tensor, groups: int, patch_size: Sequence[int]) -> Tensor:
    """Cut (B, C, H, W) into (patches, positions * groups, C / groups)."""
    height, width = patch_size
    patches = x.unfold(2, height, height).unfold(3, width, width)  # (B, C, rows, cols, ph, pw)
    patches = patches.permute(0, 2, 3, 4, 5, 1)  # channels last: each position's groups are contiguous blocks
    return patches.reshape(-1, height * width * groups, x.shape[1] // groups)


def afdcd_first_conv(
    feat: Tensor, keep: Tensor, align_weight: Tensor, align_bias: Tensor, conv_weight: Tensor, conv_bias: Tensor
) -> Tensor:
    """Align, mask, first 3x3 convolution, one after the other."""
    return F.conv2d(F.conv2d(feat, align_weight, align_bias) * keep, conv_weight, conv_bias, padding=1)


def maskd_masks(tokens: Tensor, x: Tensor) -> Tensor:
    """One sigmoid mask per token: (N, T, H, W)."""
    return torch.einsum('tc,nchw->nthw', tokens, x).sigmoid()


def maskd_mask_weights(x: Tensor, conv_weight: Tensor, conv_bias: Tensor, fc_weight: Tensor, fc_bias: Tensor) -> Tensor:
    """3x3 convolution, mean over positions, 1x1 convolution, softmax: (N, T)."""
    pooled = F.adaptive_avg_pool2d(F.conv2d(x, conv_weight, conv_bias, padding=1), 1)
    return F.conv2d(pooled, fc_weight, fc_bias).flatten(1).softmax(1)


def maskd_gate(x: Tensor, masks: Tensor, weights: Tensor | None) -> Tensor:
    """Sum over tokens of the masked maps, weighted where there are weights."""
    masked = x[:, None] * masks[:, :, None]  # (N, T, C, H, W)
    if weights is not None:
        masked = masked * weights[:, :, None, None, None]
    return masked.sum(1)


def maskd_dice(masks: Tensor, eps: float = 1e-12) -> Tensor:
    """Mean Dice coefficient of all ordered pairs of different masks."""
    m = masks.flatten(2)
    products = (m[:, :, None] * m[:, None]).sum(3)  # of (N, T, T, P)
    squares = m.square().sum(2) + eps
    dice = 2 * products / (squares[:, :, None] + squares[:, None])
    different = ~torch.eye(m.shape[1], dtype=torch.bool, device=m.device)
    return dice[:, different].mean()


def maskd_loss(
    student: Tensor,
    teacher: Tensor,
    tokens: Tensor,
    branch: Sequence[Tensor] | None = None,
    *,
    student_mask: bool = False,
    eps: float = 0.0,
    factor: float = 1.0,
) -> Tensor:
    """Mask both maps by every token, square the difference, divide by the areas, weigh the masks."""
    masks = maskd_masks(tokens, teacher)
    if student_mask:
        masks = masks * maskd_masks(tokens, student.detach())
    masked_student = student[:, None] * masks[:, :, None]  # (N, T, C, H, W)
    masked_teacher = teacher[:, None] * masks[:, :, None]
    squares = (masked_student - masked_teacher) ** 2
    errors = (squares.sum((3, 4)) / (masks.sum((2, 3)) + eps)[:, :, None]).mean(2)  # (N, T)
    if branch is None:
        return factor * errors.mean()
    return factor * (errors * maskd_mask_weights(teacher, *branch)).sum(1).mean()


def maskd_learn(
    tokens: Tensor, conv: Tensor, conv_bias: Tensor, fc: Tensor, fc_bias: Tensor, x: Tensor, upstream: Tensor
) -> Tensor:
    """The loss of learning tokens: the gated map times an upstream gradient, and the Dice term."""
    masks = maskd_masks(tokens, x)
    gated = maskd_gate(x, masks, maskd_mask_weights(x, conv, conv_bias, fc, fc_bias))
    return torch.dot(gated.flatten(), upstream.flatten()) + maskd_dice(masks)


def pcd_info_nce(student: Tensor, teacher: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """Mean over (N, C) rows of the cross-entropy of the positive beside all negatives."""
    positive = (student * teacher.detach()).sum(1, keepdim=True)
    logits = torch.cat([positive, student @ negatives.detach().t()], 1) / temperature
    return F.cross_entropy(logits, logits.new_zeros(len(logits), dtype=torch.long))


def kd(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Class scores of every pixel: KL divergence, mean over pixels (structured distillation's and CIRKD's code)."""
    s, t = (x.permute(0, 2, 3, 1).reshape(-1, x.shape[1]) / temperature for x in (student, teacher.detach()))
    return F.kl_div(F.log_softmax(s, 1), F.softmax(t, 1), reduction='batchmean') * temperature**2


def dist(student: Tensor, teacher: Tensor) -> Tensor:
    """Pearson correlation within rows and within columns of the class probabilities, as cosines of centred vectors."""
    s, t = (x.permute(0, 2, 3, 1).reshape(-1, x.shape[1]).softmax(1) for x in (student, teacher.detach()))

    def relation(a: Tensor, b: Tensor) -> Tensor:
        a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
        return 1 - ((a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + 1e-8)).mean()

    return relation(s, t) + relation(s.t(), t.t())


def cwd(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Softmax over the positions of every channel, KL divergence, divided by channels and batch."""
    b, c, h, w = student.shape
    s, t = (x.reshape(-1, h * w) / temperature for x in (student, teacher.detach()))
    target = F.softmax(t, 1)
    return (target * F.log_softmax(t, 1) - target * F.log_softmax(s, 1)).sum() * temperature**2 / (c * b)


def at(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squares over the channels, normalised over the positions; mean squared difference."""
    s, t = (F.normalize(x.pow(2).mean(1).flatten(1)) for x in (student, teacher.detach()))
    return (s - t).pow(2).mean()


def skd(student: Tensor, teacher: Tensor) -> Tensor:
    """Cosines of all pairs of positions; mean squared difference."""

    def similarity(x: Tensor) -> Tensor:
        x = x.flatten(2)
        x = x / x.pow(2).sum(1, keepdim=True).sqrt()
        return torch.einsum('bcm,bcn->bmn', x, x)

    return (similarity(teacher.detach()) - similarity(student)).pow(2).mean()


def ifvd(student: Tensor, teacher: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Class by class a map of the class's mean; cosine of every position to it; mean squared difference."""

    def cosines(x: Tensor) -> Tensor:
        centre = x.clone()
        for k in range(classes):
            mask = (labels == k).to(x.dtype)[:, None].expand_as(x)
            mean = (mask * x).sum((2, 3)) / (mask.sum((2, 3)) + 1e-6)
            centre = (1 - mask) * centre + mask * mean[:, :, None, None]
        return F.cosine_similarity(x, centre, 1)

    return F.mse_loss(cosines(student), cosines(teacher.detach()))


def cirkd_minibatch(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Similarities of every pair of pictures, one pair at a time; KL divergence of their rows, mean over the pairs."""
    s, t = (F.normalize(x, dim=1).flatten(2) for x in (student, teacher.detach()))
    total = s.new_zeros(())
    for i in range(len(s)):
        for j in range(len(s)):
            ours, theirs = (x[i].t() @ x[j] / temperature for x in (s, t))
            total = total + F.kl_div(F.log_softmax(ours, 1), F.softmax(theirs, 1), reduction='batchmean')
    return total / len(s) ** 2


def cirkd_memory(student: Tensor, teacher: Tensor, keys: Tensor, temperature: float) -> Tensor:
    """Similarities of unit rows (N, D) to keys (K, D) of the queue; KL divergence, mean over rows."""
    ours, theirs = (F.normalize(x, dim=1) @ keys.t() / temperature for x in (student, teacher.detach()))
    return F.kl_div(F.log_softmax(ours, 1), F.softmax(theirs, 1), reduction='batchmean')


def mgd(
    student: Tensor,
    first: Tensor,
    first_bias: Tensor,
    second: Tensor,
    second_bias: Tensor,
    teacher: Tensor,
    keep: Tensor,
) -> Tensor:
    """Mask, two 3x3 convolutions with a ReLU between, summed squared difference divided by the batch."""
    hidden = F.conv2d(student * keep, first, first_bias, padding=1).relu()
    generated = F.conv2d(hidden, second, second_bias, padding=1)
    return F.mse_loss(generated, teacher.detach(), reduction='sum') / len(student)


def pkd(student: Tensor, teacher: Tensor) -> Tensor:
    """Channels standardised over batch and positions; half the mean squared difference."""

    def standardized(x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        x = x.permute(1, 0, 2, 3).reshape(c, -1)
        x = (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-6)
        return x.reshape(c, b, h, w).permute(1, 0, 2, 3)

    return F.mse_loss(standardized(student), standardized(teacher.detach())) / 2


def fitnet(student: Tensor, weight: Tensor, teacher: Tensor) -> Tensor:
    """1x1 convolution, mean squared difference."""
    return F.mse_loss(F.conv2d(student, weight), teacher.detach())


def feature_match(student: Tensor, teacher: Tensor) -> Tensor:
    """Half the mean of one minus the cosine, half the mean smooth L1."""
    return (1 - F.cosine_similarity(student, teacher, 1)).mean() / 2 + F.smooth_l1_loss(student, teacher) / 2


def queue_kl(student: Tensor, teacher: Tensor, queue: Tensor, temperature: float, own_key: bool = False) -> Tensor:
    """KL divergence of the similarities of unit rows (N, C) to the own key and a queue, mean over the rows."""
    s, t = (x @ queue.t() for x in (student, teacher))
    if own_key:
        s = torch.cat([(student * teacher).sum(1, keepdim=True), s], 1)
        t = torch.cat([torch.ones_like(t[:, :1]), t], 1)
    s, t = s / temperature, t / temperature
    return F.kl_div(F.log_softmax(s, 1), F.softmax(t, 1), reduction='batchmean')


def cankd_read(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention without softmax from a map to a smaller one: the scores of all pairs of positions, then their mean."""
    q, k, v = (x.flatten(2).mT for x in (query, key, value))
    return (q @ k.mT / k.shape[1] @ v).mT.reshape(query.shape)


def freekd(student: Tensor, teacher: Tensor, tokens: Tensor) -> Tensor:
    """Both maps in three steps of Haar's wavelet; each coefficient times each mask, tokens (4, T, C)."""
    total = student.new_zeros(())
    for token in tokens[1:]:
        (student, ours), (teacher, theirs) = haar_step(student), haar_step(teacher.detach())
        mask = torch.einsum('tc,nchw->nthw', token, theirs.sum(1)).sigmoid()[:, :, None, None]
        total = total + (ours[:, None] * mask - theirs[:, None] * mask).abs().mean()
    return total


def haar_step(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the low band (N, C, H / 2, W / 2) and the three of details (N, 3, C, H / 2, W / 2) of one step."""
    x = F.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2))
    a, b, c, d = x[..., ::2, ::2], x[..., ::2, 1::2], x[..., 1::2, ::2], x[..., 1::2, 1::2]
    details = (a + b - c - d, a - b + c - d, a - b - c + d)
    return (a + b + c + d) / 2, torch.stack(details, 1) / 2


def ld(student: Tensor, teacher: Tensor, weight: Tensor, temperature: float) -> Tensor:
    """KL divergence of the rows (R, K), mean over K, weighted sum."""
    target = F.softmax(teacher.detach() / temperature, 1)
    rows = F.kl_div(F.log_softmax(student / temperature, 1), target, reduction='none').mean(1)
    return (rows * temperature**2 * weight).sum()


def fgd(student: Tensor, teacher: Tensor, boxes: Tensor, blocks: Sequence[Sequence[Tensor]]) -> Tensor:
    """Focal, attention and relation parts with RetinaNet's weights; boxes (B, R, 4) in cells of the map."""
    teacher = teacher.detach()
    (place_s, which_s), (place, which) = (fgd_attention(x, 0.5) for x in (student, teacher))
    foreground = torch.stack([fgd_foreground(one, student) for one in boxes])
    background = (foreground == 0).to(student.dtype)
    background = background / background.sum((1, 2), keepdim=True).clamp_min(1)
    total = student.new_zeros(())
    for weight, mask in ((1e-3, foreground), (5e-4, background)):
        attended = [
            x * place[:, None].sqrt() * which[:, :, None, None].sqrt() * mask[:, None].sqrt()
            for x in (student, teacher)
        ]
        total = total + weight * F.mse_loss(attended[0], attended[1], reduction='sum') / len(student)
    attention = (which_s - which).abs().sum() + (place_s - place).abs().sum()
    related = [
        x + fgd_context(x, *block)[:, :, None, None] for x, block in zip((student, teacher), blocks, strict=True)
    ]
    relation = F.mse_loss(related[0], related[1], reduction='sum')
    return total + (5e-4 * attention + 5e-6 * relation) / len(student)


def fgd_attention(x: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Attention over positions (B, H, W) and over channels (B, C), from the absolute values."""
    b, c, h, w = x.shape
    value = x.abs()
    place = h * w * (value.mean(1).view(b, -1) / temperature).softmax(1).view(b, h, w)
    return place, c * (value.mean((2, 3)) / temperature).softmax(1)


def fgd_foreground(boxes: Tensor, like: Tensor) -> Tensor:
    """Paint box by box the inverse of its area, the largest value wins."""
    mask = like.new_zeros(like.shape[2:])
    for left, top, right, bottom in boxes.tolist():
        x1, y1, x2, y2 = int(left), int(top), -int(-right // 1), -int(-bottom // 1)
        area = (y2 - y1 + 1) * (x2 - x1 + 1)
        mask[y1 : y2 + 1, x1 : x2 + 1] = mask[y1 : y2 + 1, x1 : x2 + 1].clamp_min(1 / area)
    return mask


def fgd_context(x: Tensor, mask: Tensor, *transform: Tensor) -> Tensor:
    """Global context block: what it adds to the channels (B, C)."""
    first, first_bias, scale, offset, second, second_bias = transform
    share = F.conv2d(x, mask).flatten(2).softmax(2)  # (B, 1, N)
    hidden = F.linear((x.flatten(2) @ share.mT)[..., 0], first, first_bias)
    return F.linear(F.layer_norm(hidden, hidden.shape[1:], scale, offset).relu(), second, second_bias)
