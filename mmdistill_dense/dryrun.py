"""One traced pass through student and teachers: the shape of every tap, before any weight is loaded."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from mmdistill_dense.acceleration import foldable
from mmdistill_dense.engine.seeding import fork_rng
from mmdistill_dense.forward import run_parts
from mmdistill_dense.taps import Recorder, Tap
from mmdistill_dense.teacher import FrozenTeacher

Shapes = dict[str, list[torch.Size]]

DEFAULT_SIZE = (512, 512)
_CPU_SIDE = 256


class _NumbersOnCPU(TorchFunctionMode):
    """Transformers read numbers out of a ``linspace`` while they are built (drop path), and meta tensors hold none."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = dict(kwargs or {})
        if func is torch.linspace:
            options.setdefault('device', 'cpu')
        return func(*args, **options)


def trace_pair(
    student: nn.Module,
    student_taps: Sequence[Tap],
    teachers: Mapping[str, FrozenTeacher],
    size: tuple[int, int] | None,
) -> tuple[Shapes, dict[str, Shapes]]:
    """Return the tap shapes of the student and, by name, of each teacher, for one image of the training size.

    The pass runs on the meta device, where it costs no arithmetic; networks that cannot (some transformers, deformable
    convolutions) are traced on the CPU at no more than 256 pixels a side. It also tells each teacher behind which call
    its last tap lies. No global random stream moves.

    Args:
        student: The built student.
        student_taps: What the distillers tap in it.
        teachers: The teachers, whose ``taps`` are set.
        size: Height and width of the training crop; ``None`` means 512 x 512.

    Raises:
        KeyError, ValueError: For a tap that does not exist, never fires or holds no tensor.
    """
    height, width = size or DEFAULT_SIZE
    try:
        return _trace_all(student, student_taps, teachers, (height, width), 'meta')
    except KeyError:  # an unknown tap is unknown everywhere
        raise
    except Exception:  # whatever the meta device cannot do; the CPU decides and has the better message
        return _trace_all(student, student_taps, teachers, (min(height, _CPU_SIDE), min(width, _CPU_SIDE)), 'cpu')


def _trace_all(
    student: nn.Module, taps: Sequence[Tap], teachers: Mapping[str, FrozenTeacher], size: tuple[int, int], device: str
) -> tuple[Shapes, dict[str, Shapes]]:
    with fork_rng(), torch.no_grad():
        shapes, *_ = _trace(copy.deepcopy(student), taps, size, device, 'student_tap', rois=True)
        teacher_shapes = {}
        for name, teacher in teachers.items():
            with torch.device(device), _NumbersOnCPU():
                network = teacher.build()
            teacher.foldable = []
            with foldable(network, teacher.taps, teacher.foldable):
                traced = _trace(network, teacher.taps, size, device, 'teacher_tap')
            teacher_shapes[name], teacher.stop_after, teacher.parts, teacher.heads = traced
    return shapes, teacher_shapes


def _trace(
    network: nn.Module, taps: Sequence[Tap], size: tuple[int, int], device: str, key: str, rois: bool = False
) -> tuple[Shapes, int, set[str], list[str]]:
    """Return the tap shapes, the number of recorded calls, the children that worked before the last of them, and the
    heads that ran on the features."""
    if not taps:  # a teacher that is only inherited from
        return {}, 0, set(), []
    network.to(device)
    network.eval()  # mmseg's backbones return nothing from it
    recorder = Recorder(network, taps, key)
    started: list[tuple[str, int]] = []
    for name, child in network.named_children():
        for module in child.modules():
            module.register_forward_pre_hook(lambda *_, name=name: started.append((name, recorder.calls)))
    with recorder.recording() as tensors:
        heads = run_parts(network, taps, torch.zeros(1, 3, *size, device=device), rois)
    recorder.check_complete()
    shapes = {name: [tensor.shape for tensor in found] for name, found in tensors.items()}
    return shapes, recorder.calls, {name for name, calls in started if calls < recorder.calls}, heads
