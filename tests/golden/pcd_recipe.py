"""The kinds of PCD around the loss: optimizer, schedule and views."""

from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.registry import PARAM_SCHEDULERS
from torch import Tensor, nn

from mmdistill_dense.engine import LARS
from mmdistill_dense.pretrain.views import JITTERS, GaussianBlur, RandomGrayscale, RandomResizedCrop, Solarize
from mmdistill_dense.utils.reproducible import fork_rng
from tests.golden.arrays import Arrays, tensor

SCHEDULE = Path(__file__).resolve().parents[2] / 'configs' / '_base_' / 'schedules' / 'pcd_100e.py'
DRAWS = 40_000


def lars(arrays: Arrays, dtype: torch.dtype) -> dict[str, Tensor]:
    return {**_lars(arrays, dtype, ''), **_lars(arrays, dtype, 'released_')}


def _lars(arrays: Arrays, dtype: torch.dtype, rule: str) -> dict[str, Tensor]:
    names = [name.removesuffix('_0') for name in arrays if name.endswith('_0')]
    parameters = {name: nn.Parameter(tensor(arrays[f'{name}_0'], dtype).clone()) for name in names}
    options = {name: float(arrays[name]) for name in ('momentum', 'weight_decay', 'eta')}
    optimizer = LARS(parameters.values(), lr=1.0, released=bool(rule), **options)
    results = {}
    for step, rate in enumerate(arrays['lr'].tolist(), start=1):
        optimizer.param_groups[0]['lr'] = rate
        for name, parameter in parameters.items():
            parameter.grad = tensor(arrays[f'{name}_grad{step}'], dtype)
        optimizer.step()
        results |= {f'{rule}{name}_{step}': parameter.detach().clone() for name, parameter in parameters.items()}
    return results


def schedule(arrays: Arrays, dtype: torch.dtype) -> dict[str, Tensor]:
    """The shipped schedule, shortened to the file's epochs."""
    epochs, warmup, length = (int(arrays[name]) for name in ('epochs', 'warmup_epochs', 'iters_per_epoch'))
    rising, falling = Config.fromfile(SCHEDULE).param_scheduler
    rising |= dict(start_factor=float(arrays['start_factor']), end=warmup)
    falling |= dict(T_max=epochs - warmup, begin=warmup, end=epochs)
    wrapper = OptimWrapper(torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=float(arrays['base_lr'])))
    extra = dict(optimizer=wrapper, epoch_length=length)
    schedulers = [PARAM_SCHEDULERS.build(option, default_args=extra) for option in (rising, falling)]
    rates = []
    for _ in range(epochs * length):
        rates.append(wrapper.optimizer.param_groups[0]['lr'])
        wrapper.step()
        for scheduler in schedulers:
            scheduler.step()
    return {'lr': torch.tensor(rates, dtype=torch.float64)}


def transforms(arrays: Arrays, dtype: torch.dtype) -> dict[str, Tensor]:
    size, crop = tuple(arrays['crop_size'].tolist()), arrays['crop']
    results: dict[str, np.ndarray] = {'flip': crop[:, ::-1], 'gray': RandomGrayscale().change(crop)}
    results |= {'gray_luma': results['gray'][..., 0], 'solarize': Solarize(128).change(crop)}
    for name in ('crop', 'crop_up'):
        box = tuple(arrays[f'{name}_box_ijhw'].tolist())
        results[name] = RandomResizedCrop(size).cut(arrays['image_rgb'], box)
    for name, change in JITTERS.items():
        for number, factor in enumerate(arrays[f'{name}_factors'].tolist()):
            results[f'{name}_{number}'] = change(crop, factor)
    for number, sigma in enumerate(arrays['blur_sigmas'].tolist()):
        results[f'blur_{number}'] = GaussianBlur((sigma, sigma)).change(crop)
    *factors, sigma, threshold = arrays['composite_params'].tolist()
    image = crop
    for name, factor in zip(('brightness', 'hue', 'contrast', 'saturation'), factors, strict=True):
        image = JITTERS[name](image, factor)
    image = Solarize(int(threshold)).change(GaussianBlur((sigma, sigma)).change(image))
    mean, std = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
    results |= {'composite': image, 'composite_normalized': ((image - mean) / std).transpose(2, 0, 1)}
    results |= _crops(*arrays['rrc_image_wh'].tolist())
    return {name: torch.from_numpy(np.array(value)) for name, value in results.items()}


def _crops(width: int, height: int) -> dict[str, np.ndarray]:
    with fork_rng():
        np.random.seed(0)
        transform = RandomResizedCrop(224)
        top, left, h, w = np.array([transform.box(height, width) for _ in range(DRAWS)]).T
    area, aspect = h * w / (height * width), np.log(w / h)
    centres = (top + h / 2) / height, (left + w / 2) / width
    return {
        'rrc_area_mean_std': np.array([area.mean(), area.std()]),
        'rrc_logratio_mean_std': np.array([aspect.mean(), aspect.std()]),
        'rrc_area_quantiles_10_50_90': np.quantile(area, [0.1, 0.5, 0.9]),
        'rrc_center_std_yx': np.array([centre.std() for centre in centres]),
    }
