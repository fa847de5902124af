"""Dense contrast by a C++ kernel, compiled at the first call of a process."""

import ctypes
import functools
import os
import shlex
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmdistill_dense.losses.contrast_plain import Tokens

_SOURCE = Path(__file__).with_suffix('.cpp')
_FLAGS = ['-std=c++17', '-O3', '-fno-math-errno', '-fno-trapping-math', '-fopenmp-simd', '-shared', '-fPIC']
_MACHINE = [['-march=native', '-mprefer-vector-width=512'], ['-mcpu=native'], []]  # the first that the compiler accepts


class _Sizes(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_long)
        for name in ('channels', 'height', 'width', 'groups', 'patch_height', 'patch_width', 'other_groups')
    ]


def available() -> bool:
    """Compile the kernel at the first call; return whether that worked, and warn once with the reason if not."""
    return _library() is not None


def loss_and_grad(
    student: Tensor, teacher: Tensor, cut: Tokens, temperature: float, needs_grad: bool
) -> tuple[Tensor, Tensor | None]:
    """Compute :func:`mmdistill_dense.losses.contrast_plain.loss_and_grad` on the CPU, with torch's thread count."""
    library = _library()
    assert library is not None, 'callers check available() first'
    student, teacher = student.contiguous(), teacher.contiguous()
    batch, channels, height, width = student.shape
    sizes = _Sizes(channels, height, width, cut.groups, *cut.patch, cut.other_groups)
    rows = batch * (height // cut.patch[0] * cut.patch[0]) * (width // cut.patch[1] * cut.patch[1]) * cut.groups
    losses = student.new_empty(rows, dtype=torch.float64)
    grad = torch.zeros_like(student) if needs_grad else None
    function = library[student.dtype]

    def work(begin: int, end: int) -> None:
        pointers = losses.data_ptr(), None if grad is None else grad.data_ptr()
        maps = student.data_ptr(), teacher.data_ptr()
        function(*maps, ctypes.byref(sizes), temperature, begin, end, *pointers)  # releases the GIL

    threads = min(torch.get_num_threads(), rows)
    if threads <= 1:
        work(0, rows)
    else:
        bounds = [rows * index // threads for index in range(threads + 1)]
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, bounds[:-1], bounds[1:]))
    return losses.sum(), grad


@functools.cache
def _library() -> dict[torch.dtype, Callable[..., Any]] | None:
    try:
        library = _compile()
    except (OSError, RuntimeError) as error:
        warnings.warn(f'The compiled contrast is not available, plain PyTorch is used: {error}', stacklevel=2)
        return None
    functions: dict[torch.dtype, Any] = {
        torch.float32: library.contrast_float32,
        torch.float64: library.contrast_float64,
    }
    pointer, whole = ctypes.c_void_p, ctypes.c_long
    for function in functions.values():
        function.argtypes = [pointer] * 3 + [ctypes.c_double, whole, whole, pointer, pointer]
        function.restype = None
    return functions


def _compile() -> ctypes.CDLL:
    """Compile into a temporary folder of this process: there is no cache to go stale or to be tampered with."""
    compiler = shlex.split(os.environ.get('CXX', '')) or ['c++']
    if shutil.which(compiler[0]) is None:
        raise RuntimeError(f'no C++ compiler {compiler[0]!r} found; install one (g++, clang) or set CXX')
    said = ''
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, 'contrast.so')
        for machine in _MACHINE:
            command = [*compiler, *_FLAGS, *machine, str(_SOURCE), '-o', str(out)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode == 0:
                return ctypes.CDLL(str(out))
            said = done.stderr.strip()
    raise RuntimeError(f'{shlex.join(command)} failed: {said[-500:]}')
