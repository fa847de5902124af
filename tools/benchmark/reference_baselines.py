"""The released formulas of the baselines, written as plainly as they read: what the benchmark compares ours with.

Nothing here is used in training. Every step allocates what its formula names.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def kd(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Class scores of every pixel: KL divergence, mean over pixels (structured distillation's and CIRKD's code)."""
    s, t = (x.permute(0, 2, 3, 1).reshape(-1, x.shape[1]) / temperature for x in (student, teacher.detach()))
    return F.kl_div(F.log_softmax(s, 1), F.softmax(t, 1), reduction='batchmean') * temperature**2


def binary_kd(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Independent scores: KL of (p, 1 - p), summed over the channels, mean over pixels."""
    s, t = student / temperature, teacher.detach() / temperature
    p = t.sigmoid()
    pairs = ((p, t, s), (1 - p, -t, -s))
    total = torch.stack([(q * (F.logsigmoid(y) - F.logsigmoid(x))).sum() for q, y, x in pairs])
    return total.sum() * temperature**2 / (student.numel() // student.shape[1])


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


def mgd(student: Tensor, teacher: Tensor, keep: Tensor, *block: Tensor) -> Tensor:
    """Mask, two 3x3 convolutions with a ReLU between, summed squared difference divided by the batch."""
    first, first_bias, second, second_bias = block
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


def fitnet(student: Tensor, teacher: Tensor, weight: Tensor) -> Tensor:
    """1x1 convolution, mean squared difference."""
    return F.mse_loss(F.conv2d(student, weight), teacher.detach())


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
