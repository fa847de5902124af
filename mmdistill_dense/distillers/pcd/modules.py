"""The data of a PCD step, the modules after the student's map that only the training needs, and the queue."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmdistill_dense.losses import centres_inside, loss_dtype, pixel_info_nce, to_device
from mmdistill_dense.utils.distributed import MIN_COUNT, gather_rows, mean_over_ranks
from mmdistill_dense.utils.runner_internals import Samples
from mmdistill_dense.utils.validate import Count

if TYPE_CHECKING:
    from mmdistill_dense.networks.teacher import FrozenTeacher

_MANY_TOKENS = 4096
_WIDE = 4096  # hidden channels of the published heads


@dataclass(frozen=True)
class Head:
    """Option ``head``: what lies between the student's map and the comparison, and is left out of the student."""

    type: Literal['linear', 'mlp', 'mlp2', 'mlp4'] = 'linear'
    hidden: Count | None = None  # hidden channels. Defaults to those of the teacher's layout, else 4096.
    bias: bool | Literal['hidden'] | None = None  # None: as the teacher's layout has it
    layers: Count = 2

    def __post_init__(self) -> None:
        if self.type != 'linear':
            return
        if self.bias == 'hidden':
            raise ValueError("head.bias='hidden' needs a head with hidden layers: type='mlp', 'mlp2' or 'mlp4'.")
        for name, value, default in (('hidden', self.hidden, None), ('layers', self.layers, 2)):
            if value != default:
                raise ValueError(f"head.{name} needs type='mlp', 'mlp2' or 'mlp4', got {name}={value} with 'linear'.")


HEAD = asdict(Head())


@dataclass(frozen=True)
class AttentionOption:
    """Option ``attention`` of PCD."""

    num_heads: Count = 8


class ExactBuffers(nn.Module):
    """Buffers that stay in float32 in a half-precision model; numbers kept beside them are read again after loading."""

    def forget_numbers(self) -> None:
        """Read the numbers from the buffers again, which somebody has changed."""

    def _load_from_state_dict(self, *args: Any) -> None:
        self.forget_numbers()
        super()._load_from_state_dict(*args)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ExactBuffers:
        exact = dict(self.named_buffers(recurse=False))
        super()._apply(fn, recurse)
        for name, buffer in list(self.named_buffers(recurse=False)):
            if buffer.dtype != loss_dtype(buffer):
                self._buffers[name] = exact[name].to(buffer.device)
        return self


class NegativeQueue(ExactBuffers):
    """The last K keys of all processes, as unit rows in float32; equal on every process.

    Buffers: ``rows`` (K, C), ``ptr`` (1,) the next row to write, ``filled`` (1,) how many rows count. With
    ``init='empty'`` these are the written ones; with ``'random'`` all, at first random directions, the same on every
    process and in every run; with ``'zeros'`` all, at first zeros.
    """

    rows: Tensor
    ptr: Tensor
    filled: Tensor

    def __init__(self, size: int, channels: int, init: str = 'empty') -> None:
        super().__init__()
        rows = torch.zeros(size, channels)
        if init == 'random':
            rows = F.normalize(rows.normal_(generator=torch.Generator().manual_seed(0)), dim=1)
        self.register_buffer('rows', rows)
        self.register_buffer('ptr', torch.zeros(1, dtype=torch.long))
        self.register_buffer('filled', torch.tensor([0 if init == 'empty' else size]))
        self.size = size  # rows in use
        self._count: int | None = None  # filled, as a number; None until it is read

    @torch.no_grad()
    def limit(self, size: int) -> None:
        """Use the first ``size`` rows alone, at most K; of a queue that holds more, the further rows are lost."""
        self.size = size
        self.filled.clamp_(max=size)
        self.ptr.remainder_(size)
        self._count = None

    def negatives(self) -> Tensor:
        """Return the rows that count."""
        read_counts([self])
        return self.rows[: self._count]

    @torch.no_grad()
    def enqueue(self, keys: Tensor) -> None:
        """Write the (n, C) unit keys of all processes into the ring, in order of rank.

        The number of keys may differ between processes. Rows of zeros are left out. Of more than K keys, the last K are
        written.
        """
        keys = gather_rows(keys.to(self.rows))
        # Reading the number of keys would wait for the device. So the rows to leave out are sorted first, to the places
        # before ptr, and are replaced by the rows that are there.
        is_new = keys.ne(0).any(1)
        order = is_new.byte().argsort(stable=True)[-self.size :]
        keys, is_new = keys[order], is_new[order]
        number = is_new.sum()
        slots = (self.ptr + number + torch.arange(-len(keys), 0, device=self.ptr.device)) % self.size
        self.rows.index_copy_(0, slots, torch.where(is_new[:, None], keys, self.rows[slots]))
        self.ptr.add_(number).remainder_(self.size)
        self.filled.add_(number).clamp_(max=self.size)
        if self._count != self.size:  # a full queue stays full
            self._count = None

    def forget_numbers(self) -> None:
        self._count = None


def read_counts(queues: Sequence[NegativeQueue]) -> None:
    """Read how many rows count, which waits for the device once, and not at all when all queues are full."""
    if unread := [queue for queue in queues if queue._count is None]:
        for queue, number in zip(unread, torch.cat([queue.filled for queue in unread]).tolist(), strict=True):  # (n,)
            queue._count = number


class ChannelCenter(nn.Module):
    """Subtracts a running mean per channel from a map."""

    momentum = 0.01  # share of the new mean at each update
    mean: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer('mean', torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x - self.mean.to(x.dtype)[:, None, None]

    @torch.no_grad()
    def update(self, centred: Tensor, valid: Tensor | None) -> None:
        """Move the mean towards that of a map from :meth:`forward`, over the valid pixels of all processes."""
        pixels = centred.movedim(1, -1).flatten(0, 2)  # (B H W, C)
        weight = pixels.new_ones(len(pixels), 1) if valid is None else valid.reshape(-1, 1).to(pixels.dtype)  # (n, 1)
        sums = mean_over_ranks(torch.cat([(weight * pixels).sum(0), weight.sum(0)]))  # (C + 1,)
        step = self.momentum * (sums[:-1] / sums[-1].clamp_min(MIN_COUNT)).to(self.mean)
        self.mean.add_(torch.where(step.isfinite(), step, 0))  # a broken map, whose step is skipped, leaves no trace


AUTO_SIZE = 'auto'
ROWS = 1024  # memory of each queue with 'auto'
FEWEST_KEYS, MOST_KEYS = 4, 64  # of a picture
LEAST_TRAINING = 12  # pictures
STEPS = 4  # the queue holds the keys of at most so many steps


def choose_size(images: int, per_step: int, key: str) -> tuple[int, int]:
    """Return the rows of a queue and the keys that each picture adds to it.

    The queue holds the keys of a third of the pictures, or of four steps if that is less, so that a picture's own keys
    are gone when it comes again::

        pictures = min(images // 3, 4 * per_step)
        keys     = 1024 // pictures, at least 4 and at most 64
        rows     = min(1024, keys * pictures)
    """
    if images < LEAST_TRAINING:
        problem = f"{key}.queue_size='auto' needs {LEAST_TRAINING} training pictures or more, found {images}"
        raise ValueError(f"{problem}: use more, or another method, e.g. type='CWD'.")
    pictures = min(images // 3, STEPS * per_step)
    keys = min(max(ROWS // pictures, FEWEST_KEYS), MOST_KEYS)
    return min(ROWS, keys * pictures), keys


def warning(size: int, images: int, keys: int, key: str) -> str:
    """Return a warning for a queue that holds the keys of more than half of the pictures, else an empty string."""
    if size <= keys * images / 2:
        return ''
    return (
        f'{key}.queue_size={size} is large for {images} training pictures with '
        f"{keys} keys each: a picture's own keys are still negatives when it comes again. Use at most about "
        f"a third of all keys, {max(keys * images // 3, 1)}, or queue_size='auto'."
    )


# Modules that only the training needs, and the data of a step


class ProjectionHead(nn.Sequential):
    """``layers`` 1x1 convolutions with batch norm and ReLU between them; ``bias='hidden'`` is on all but the last."""

    def __init__(self, channels: int, hidden: int, out: int, *, bias: bool | str = False, layers: int = 2) -> None:
        parts: list[nn.Module] = []
        for _ in range(layers - 1):
            parts += [nn.Conv2d(channels, hidden, 1, bias=bool(bias)), nn.BatchNorm2d(hidden), nn.ReLU(inplace=True)]
            channels = hidden
        super().__init__(*parts, nn.Conv2d(channels, out, 1, bias=bias is True))


def build_head(option: Head, channels: int, out: int, teacher: FrozenTeacher | None) -> dict[str, nn.Module]:
    """Return the projector and, if the head has one, the predictor; a teacher's layout names the usual widths."""
    hidden, bias = option.hidden, option.bias
    if option.type == 'linear':
        return {'projector': nn.Conv2d(channels, out, 1, bias=bias is not False)}
    layout = None if teacher is None else teacher.config.model.get('layout')
    if layout is not None:
        from mmdistill_dense.weights.ssl_layouts import LAYOUTS  # loaded only where it is used

        layout_head = LAYOUTS.get(layout)
        hidden = hidden or getattr(layout_head, 'hidden', None)
        bias = getattr(layout_head, 'bias', None) if bias is None else bias
    shape: dict[str, Any] = {'hidden': hidden or _WIDE, 'bias': bias or False, 'layers': option.layers}
    middle = channels if option.type == 'mlp4' else out
    head: dict[str, nn.Module] = {'projector': ProjectionHead(channels, out=middle, **shape)}
    return head if option.type == 'mlp' else head | {'predictor': ProjectionHead(middle, out=out, **shape)}


class PixelAttention(nn.Module):
    """Multi-head self-attention over the pixels of a map, added to it with a learned factor that starts at 0.

    ``y = x + gamma * out(attention(qkv(norm(x))))``: the identity, bit for bit, until ``gamma`` is learned. ``gamma``
    is a vector because LARS would hardly move a zero matrix: its step grows with the norm, except for vectors.
    """

    def __init__(self, channels: int, num_heads: int = 8) -> None:
        super().__init__()
        if channels % num_heads:
            divisors = [n for n in range(1, min(channels, 64) + 1) if channels % n == 0]
            problem = f'attention.num_heads={num_heads} does not divide the {channels} channels of the tapped map'
            raise ValueError(f'{problem}; choose one of {divisors}.')
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)
        self.gamma = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        if height * width > _MANY_TOKENS:
            warnings.warn(
                f'PCD computes attention over {height} x {width} = {height * width} pixels; time grows with the square '
                'of their number: set attention=None or tap a smaller map.',
                stacklevel=2,
            )
        tokens = self.norm(x.flatten(2).mT)  # (B, N, C)
        q, k, v = self.qkv(tokens).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)  # (3, B, h, N, C/h)
        values = F.scaled_dot_product_attention(q, k, v)  # (B, heads, tokens, C / heads)
        values = self.gamma * self.out(values.transpose(1, 2).flatten(2))  # (B, N, C)
        return x + values.mT.reshape(batch, channels, height, width).to(x.dtype)  # (B, C, H, W)


def check_no_head(key: str, taps: str, student: int, teacher: int) -> None:
    """Refuse maps of different channels for ``head=None``."""
    if student != teacher:
        channels = f'{taps} has {student} student and {teacher} teacher channels'
        raise ValueError(f"{key}: {channels}; head=None needs equal numbers, use head=dict(type='linear').")


@dataclass
class LevelTensors:
    """The tensors that one level of a step compares."""

    heads: list[Tensor]
    key_map: Tensor  # the teacher's, of the first view on the student's grid
    mask: Tensor | None
    valid: Tensor | None
    rows: list[tuple[Tensor, Tensor, Tensor]]
    inside: Tensor | None = None

    def contrast(self, negatives: Tensor, temperature: float) -> Tensor:
        """Return the loss, a mean over pairs of means over pixels; averaged by DDP it is that of all processes."""
        student, teacher, weight = (torch.cat([row[k] for row in self.rows]) for k in range(3))  # (n, C), (n, C), (n,)
        counts = mean_over_ranks(torch.stack([row[2].sum() for row in self.rows])).clamp_min(MIN_COUNT)
        share = torch.cat([count.expand(len(row[2])) for row, count in zip(self.rows, counts, strict=True)])  # (n,)
        weight = weight / share / len(self.rows)
        return pixel_info_nce(student, teacher, negatives, temperature, weight)[0]

    def key(self) -> Tensor:
        """Return the teacher's mean vector for each picture of the first view."""
        return masked_mean(self.key_map, self.mask)


def masked_mean(x: Tensor, valid: Tensor | None) -> Tensor:
    """Return the mean (B, C) of a map over its valid pixels, 0 where there is none."""
    if valid is None:
        return x.mean((2, 3))
    weight = valid[:, None].to(x.dtype)
    return (x * weight).sum((2, 3)) / weight.sum((2, 3)).clamp_min(1)


def random_pixels(x: Tensor, valid: Tensor | None, count: int, generator: torch.Generator) -> Tensor:
    """Return ``count`` random valid pixels of each image of a map, with replacement: (images * count, C).

    Images without a valid pixel are left out. ``valid`` and the generator are on the CPU.
    """
    share = torch.ones(len(x), x.shape[2:].numel()) if valid is None else valid.flatten(1).float()  # (B, H*W)
    images = share.any(1).nonzero()[:, 0]
    index = torch.multinomial(share[images], count, replacement=True, generator=generator)
    return x.flatten(2)[to_device(images[:, None], x), :, to_device(index, x)].flatten(0, 1)  # (images*count, C)


def take_pixels(x: Tensor, index: Tensor | None) -> Tensor:
    """Return the pixels at the flat indices ``index`` (``None``: all), (B, C, n, 1) or, of (B, H, W), (B, n, 1)."""
    return x if index is None else x.flatten(-2)[..., to_device(index, x), None]  # (..., n, 1)


def inside_images(data_samples: Samples, x: Tensor) -> Tensor | None:
    """Return the (B, H, W) mask, on the CPU, of a map's pixels inside the images of a padded batch; ``None`` is all.

    Both mmseg and mmdet write the shapes of the image and of the batch into the data samples.
    """
    metas = [getattr(sample, 'metainfo', {}) for sample in data_samples] if isinstance(data_samples, list) else []
    images: list[Any] = [meta.get('img_shape') for meta in metas]
    padded: list[Any] = [meta.get('batch_input_shape', meta.get('pad_shape')) for meta in metas]  # of mmdet, of mmseg
    if not metas or None in images or None in padded:
        return None
    batch = tuple(max(shape[axis] for shape in padded) for axis in (0, 1))
    if all(tuple(image[:2]) == batch for image in images):
        return None
    return centres_inside(images, batch, x.shape[2:])


def inside_on_device(data_samples: Samples, x: Tensor) -> Tensor | None:
    """Return :func:`inside_images` on the device of the map."""
    inside = inside_images(data_samples, x)
    return None if inside is None else to_device(inside, x)
