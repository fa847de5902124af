"""One training step of every method on a device: its values beside the CPU's, mixed precision, waits for the device."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.config import Config
from mmengine.runner import set_random_seed

from tools.benchmark.section import Section, machine, table
from tools.benchmark.step import prepare_steps

SEG, DET = 'deeplabv3plus_mobilenetv2_to_r18w16_camvid', 'retinanet_mobilenetv2_to_r18w16_bccd'
PAIRS = {
    SEG: 'kd cwd dist at skd ifvd fitnet cirkd mgd cankd freekd maskd afdcd pcd',
    DET: 'kd cwd dist at fitnet pkd fgd mgd cankd freekd frs defeat crosskd maskd afdcd pcd',
    'gfl_mobilenetv2_to_r18w16_bccd': 'ld crosskd',
    'mask_rcnn_mobilenetv2_to_r18w16_nuclei': 'kd defeat frs fgd',
    'dino_mobilenetv2_to_r18w16_bccd': 'kddetr',
    'dinov2-vits14_to_deeplabv3_r18_camvid': 'cwd featurematch',
}
"""What a step needs no pre-training for, by the pair of small networks that it is measured on."""

SIDE, IMAGES = 192, 2
MIXED = {'bf16': {'dtype': 'bfloat16'}, 'fp16': {'dtype': 'float16', 'loss_scale': 'dynamic'}}
NOTE = (
    'Difference: the largest over the losses of the second step, without dropout, to the CPU in float32 (TF32 off), '
    "over the largest loss. bf16 and fp16: the same to float32 on the device; 'refused' where mmcv has no such kernel "
    'of an operation that the student itself needs, or a matching meets values beyond the range of fp16. Waits: '
    'operations of a step that make the CPU wait for the device, of the student alone and of the distilled step.'
)


def measure(config: Config, device: str) -> dict[str, Any]:
    """Return the differences and the waits of a config's step; what fails stands in the row with its error."""
    config = Config(_without_dropout(config.to_dict()))
    kept = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        exact, found = _losses(config, 'cpu'), _losses(config, device)
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = kept
    row: dict[str, Any] = {'difference': _difference(found, exact), 'losses': found, 'losses_cpu': exact}
    for name, option in MIXED.items() if torch.device(device).type == 'cuda' else ():  # mmengine refuses a CPU
        mixed = Config(config.to_dict())
        mixed.optim_wrapper = {**mixed.optim_wrapper, 'type': 'AmpOptimWrapper', **option}
        try:
            row[name] = _difference(_losses(mixed, device), found)
        except (NotImplementedError, ValueError) as error:  # a kernel of mmcv, a matching of values beyond fp16
            row[name], row[f'{name}_error'] = None, str(error)
    steps = _prepared(config, device)
    for name, step in (('control', steps.control), ('distilled', steps.distilled)):
        step()
        with _waits() as seen:
            step()
        row[f'waits_{name}'] = len(seen)
        row[f'places_{name}'] = dict(Counter(f'{one.filename.rpartition("/")[2]}:{one.lineno}' for one in seen))
    return row


def _without_dropout(options: Any) -> Any:
    """Return the options with dropout off, which draws other numbers on each device."""
    if isinstance(options, dict):
        return {
            key: 0.0 if key in ('dropout_ratio', 'dropout') else _without_dropout(one) for key, one in options.items()
        }
    return [_without_dropout(one) for one in options] if isinstance(options, list) else options


def _prepared(config: Config, device: str) -> Any:
    set_random_seed(0)
    return prepare_steps(Config(config.to_dict()), IMAGES, (SIDE, SIDE), device)


def _losses(config: Config, device: str) -> dict[str, float]:
    """Return the losses of the second step: by then queues hold keys."""
    step = _prepared(config, device).distilled
    set_random_seed(1)
    step()
    values = step.network.train_step(step.data, step.wrapper)
    return {name: float(value) for name, value in values.items() if 'loss' in name}


def _difference(found: dict[str, float], exact: dict[str, float]) -> float:
    """Return the largest difference of two steps' losses, over the largest; infinite for a loss that is not finite."""
    if not all(map(math.isfinite, found.values())) or found.keys() != exact.keys():
        return math.inf
    return max(abs(found[name] - exact[name]) for name in exact) / max(map(abs, exact.values()))


@contextmanager
def _waits() -> Iterator[list[Any]]:
    """Collect torch's warnings, one for each wait; none without CUDA."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter('always')
        found: list[Any] = []
        if torch.cuda.is_available():
            torch.cuda.set_sync_debug_mode('warn')
        try:
            yield found
        finally:
            if torch.cuda.is_available():
                torch.cuda.set_sync_debug_mode('default')
            found += [one for one in seen if 'synchroniz' in str(one.message)]


def section(rows: dict[str, dict[str, Any]], name: str, device: str, command: str) -> Section:
    """Return the rows, by ``METHOD:PAIR``, as a section."""
    head = ['method and pair', 'difference', 'bf16', 'fp16', 'waits alone', 'distilled']
    cells = [[key, *_cells(row)] for key, row in rows.items()]
    title = f'Methods, a step of each on the device, {IMAGES} of {SIDE}x{SIDE}'
    return Section(name, title, f'{table(head, cells)}\n\n{NOTE}', rows, machine(device), command)


def _cells(row: dict[str, Any]) -> list[str]:
    if 'error' in row:
        return [row['error'], '–', '–', '–', '–']
    values = [row.get(name, '–') for name in ('difference', *MIXED)]
    told = ['refused' if one is None else one if isinstance(one, str) else f'{one:.1e}' for one in values]
    return [*told, str(row['waits_control']), str(row['waits_distilled'])]
