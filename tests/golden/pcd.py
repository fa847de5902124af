"""The kinds of PCD and of the methods that compare one vector a picture, and of the recipe around PCD's loss.

Prefixes of the arrays are the cases inside a file.
"""

from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.registry import PARAM_SCHEDULERS
from torch import Tensor, nn

from mmdistill_dense import losses
from mmdistill_dense.distillers import PCD, QueueKL, SimReg
from mmdistill_dense.distillers.pcd import modules
from mmdistill_dense.distillers.pcd.modules import LevelTensors, NegativeQueue, PixelAttention
from mmdistill_dense.engine import LARS
from mmdistill_dense.pretrain.views import JITTERS, GaussianBlur, RandomGrayscale, RandomResizedCrop, Solarize
from mmdistill_dense.utils.reproducible import fork_rng
from tests.golden.reading import File, Results, load, losses_of, numbered, set_up, with_gradients

SCHEDULE = Path(__file__).resolve().parents[2] / 'configs' / '_base_' / 'schedules' / 'pcd_100e.py'
DRAWS = 40_000


def infonce(file: File) -> Results:
    results = {}
    for case in _cases(file, '_n_valid'):
        student, teacher = file.leaf(f'{case}_s'), file.tensor(f'{case}_t')
        valid = torch.from_numpy(file[f'{case}_valid'])
        tau = float(file[f'{case}_tau'])
        negatives = file.tensor(f'{case}_queue')[: int(file[f'{case}_n_valid'])]
        s, t, weight = losses.pixel_pairs(student, teacher, valid)
        loss, per_pixel = losses.pixel_info_nce(s, t, negatives, tau, weight / weight.sum())
        loss.backward()
        positive = (s * t).sum(1)
        maps = {'loss_map': per_pixel, 'pos': positive, 'lse': per_pixel + positive / tau}
        results |= {f'{case}_{name}': (value * weight).view(valid.shape) for name, value in maps.items()}
        results |= {f'{case}_loss': loss, f'{case}_grad_s': student.grad}
    return results


def two_view(file: File) -> Results:
    results: Results = {}
    for pairing in ('cross', 'same'):
        students, teachers = [file.leaf(f's{view}') for view in (1, 2)], [file.tensor(f't{view}') for view in (1, 2)]
        distiller = bare(students, teachers, file['queue_before'], file['ptr_before'], view_pairing=pairing)
        distiller.temperature = float(file['tau'])
        keys = distiller._keys(LevelTensors([], teachers[0], None, None, []), 0)
        ranks = losses.key_ranks(students[0].detach().mean((2, 3)), keys, distiller.queue.negatives())
        terms = losses_of(distiller, students, teachers)
        terms['loss_pcd'].backward()
        results |= {f'grad_s{view}_{pairing}': student.grad for view, student in enumerate(students, 1)}
        results[f'loss_{pairing}'] = terms['loss_pcd']
    results |= {f'monitor_top{n}': terms[f'acc_top{n}'] for n in (1, 5)}
    after = {'queue_after': distiller.queue.rows, 'ptr_after': distiller.queue.ptr[0]}
    return {**results, **after, 'keys': keys, 'monitor_rank': ranks}


def queue(file: File) -> Results:
    """The keys of all ranks as one process would give them; two processes are in the tests of the distiller."""
    results = {}
    for case in _cases(file, '_steps'):
        store = queue_of(file[f'{case}_queue0'], file[f'{case}_ptr0'], file[f'{case}_filled0'], file.dtype)
        for step in range(1, int(file[f'{case}_steps']) + 1):
            store.enqueue(file.tensor(f'{case}_keys{step}').flatten(0, 1))
            actual = {'queue': store.rows, 'ptr': store.ptr[0], 'filled': store.filled[0]}
            results |= {f'{case}_{name}{step}': value.clone() for name, value in actual.items()}
    return results


def mhsa(file: File) -> Results:
    x = file.tensor('x')
    attention = PixelAttention(x.shape[1], int(file['num_heads'])).to(file.dtype)
    names = {name: name.replace('.', '_') for name in attention.state_dict()}
    attention.load_state_dict({name: torch.from_numpy(file[stored]) for name, stored in names.items()})
    return {'y': attention(x)}


def student_head(file: File) -> Results:
    x, stored = file.leaf('x'), file.below('state/').state()
    head = dict(type='mlp2', hidden=len(stored['projector.1.weight']), bias=False)
    distiller = set_up(PCD('tap', head=head, queue_size=1), [x], [file.tensor('y_train')])
    load(distiller, stored)
    distiller.eval()
    results = {'y_eval': distiller._embed(0, x.detach(), None)}
    distiller.train()
    results['y_train'] = distiller._embed(0, x, None)
    results['y_train'].backward(file.tensor('grad_y'))
    results['grad_x'] = x.grad
    results |= {f'grad/{name}': p.grad for name, p in distiller.named_parameters()}
    return results | {f'after/{name}': value for name, value in distiller.named_buffers()}


def plugin(file: File) -> Results:
    results = {}
    for case in _cases(file, '_resized'):
        results[f'{case}_resized'] = losses.to_grid(file.tensor(f'{case}_teacher'), file[f'{case}_size'].tolist())
    shapes = (file[f'mask_{name}'].tolist() for name in ('img_shapes', 'batch_shape', 'feat'))
    results['mask'] = losses.centres_inside(*shapes)
    student, teacher = file.leaf('sub_s'), file.tensor('sub_t')
    distiller = bare([student], [teacher], file['sub_queue'])
    distiller.positions = lambda pixels, level: torch.from_numpy(file['sub_idx'])
    actual = with_gradients(losses_of(distiller, [student], [teacher])['loss_pcd'], s=student)
    return results | {f'sub_{name}': value for name, value in actual.items()}


def bare(
    students: list[Tensor], teachers: list[Tensor], rows: np.ndarray, ptr: np.ndarray | int = 0, **options: Any
) -> PCD:
    """A distiller without a head, its queue full."""
    distiller = PCD('tap', head=None, queue_size=len(rows), queue_init='random', **options)
    set_up(distiller, students[:1], teachers[:1]).queue = queue_of(rows, ptr, len(rows), students[0].dtype)
    return distiller


def queue_of(rows: np.ndarray, ptr: Any, filled: Any, dtype: torch.dtype) -> NegativeQueue:
    store = NegativeQueue(*rows.shape).to(dtype)
    state = {'rows': rows, 'ptr': np.reshape(ptr, 1), 'filled': np.reshape(filled, 1)}
    load(store, {name: torch.from_numpy(value) for name, value in state.items()})
    return store


def _cases(file: File, suffix: str) -> list[str]:
    return [name.removesuffix(suffix) for name in file if name.endswith(suffix)]


# One vector a picture


def vector(file: File) -> Results:
    """Run the whole distiller; the mask stands for what the samples of padded pictures say."""
    views = range(1, int(file['views']) + 1)
    students, teachers = [file.leaf(f's{view}') for view in views], [file.tensor(f't{view}') for view in views]
    kind, rows = str(file['head']), file['queue']
    hidden = len(file['w0']) if kind == 'mlp' else None
    head = {'none': None, 'linear': dict(type='linear'), 'mlp': dict(type='mlp', hidden=hidden, bias='hidden')}[kind]
    options: dict[str, Any] = dict(queue_size=len(rows), monitor_interval=0, **file.numbers('temperature'))
    made = set_up(PCD('tap', head=head, vectors=True, **options), students[:1], teachers[:1])
    made.queue = queue_of(rows, 0, file['n_valid'], file.dtype)
    parameters = dict(made.named_parameters())
    layers = {'linear': {'w0': 'weight', 'b0': 'bias'}, 'mlp': dict(
        w0='0.weight', b0='0.bias', bn_w='1.weight', bn_b='1.bias', w1='3.weight')}.get(kind, {})  # fmt: skip
    names = {stored: parameters[f'projector.{name}'] for stored, name in layers.items()}
    for stored, parameter in names.items():
        parameter.data.copy_(file.tensor(stored).view_as(parameter))
    valid = torch.from_numpy(file['valid']) if 'valid' in file else None
    contrasts: list[Tensor] = []

    def contrast(*args: Any) -> tuple[Tensor, Tensor]:
        found = losses.pixel_info_nce(*args)
        contrasts.append(found[1])
        return found

    with (
        mock.patch('mmdistill_dense.distillers.pcd.pcd.inside_on_device', lambda *_: valid),
        mock.patch.object(modules, 'pixel_info_nce', contrast),
    ):
        loss = losses_of(made, students, teachers)['loss_pcd']
    keys = made.queue.rows[: len(teachers[0])]
    found = with_gradients(loss, **{f's{view}': x for view, x in enumerate(students, 1)}, **names)
    found |= {f'grad_{name}': found[f'grad_{name}'].flatten(1) for name, one in names.items() if one.ndim > 1}
    return found | {'row_loss': contrasts[0], 'keys': keys}


def seed(file: File) -> Results:
    """Run the whole distiller; the divergence of single rows is that of its loss function."""
    student, teacher, rows = file.leaf('student'), file.tensor('teacher'), file['queue']
    cold, warm = (float(file[f'{side}_temperature']) for side in ('teacher', 'student'))
    options = dict(temperature=cold, student_temperature=warm, queue_size=len(rows), monitor_interval=0)
    made = set_up(QueueKL('tap', own_key=True, head=None, **options), [student], [teacher])
    made.parts[0] = queue_of(rows, 0, file['n_valid'], file.dtype)
    keys = made.parts[0].negatives()[None].clone()
    actual = with_gradients(losses_of(made, [student], [teacher])['loss_queue'], student=student)
    s, t = (losses.normalize_pixels(x.detach()[:, :, None, None])[0] for x in (student, teacher))
    apart = [
        losses.similarity_divergence(
            s[n : n + 1] * made.sharper, keys, t[n : n + 1], keys, temperature=cold, own_key=True
        )
        for n in range(len(s))
    ]
    return {**actual, 'row_divergence': torch.stack(apart)}


def simreg(file: File) -> Results:
    student, teacher = file.leaf('student'), file.tensor('teacher')
    made = set_up(SimReg('tap', head=None), [student], [teacher])
    return with_gradients(losses_of(made, [student], [teacher])['loss_simreg'], student=student)


def kind_of_seed(_: Any, file: File) -> str:
    """SEED of a student that is hardly another than the teacher has a tolerance of its own."""
    kind = str(file['kind'])
    return 'near' if kind == 'seed' and file['loss'] < 1e-5 else kind


# Around the loss: optimizer, schedule and views


def lars(file: File) -> Results:
    names = [name.removesuffix('_0') for name in file if name.endswith('_0')]
    results = {}
    for rule in ('', 'released_'):
        parameters = {name: nn.Parameter(file.tensor(f'{name}_0').clone()) for name in names}
        options = file.numbers('momentum weight_decay eta')
        optimizer = LARS(parameters.values(), lr=1.0, released=bool(rule), **options)
        for step, rate in enumerate(file['lr'].tolist(), start=1):
            optimizer.param_groups[0]['lr'] = rate
            for name, parameter in parameters.items():
                parameter.grad = file.tensor(f'{name}_grad{step}')
            optimizer.step()
            results |= {f'{rule}{name}_{step}': parameter.detach().clone() for name, parameter in parameters.items()}
    return results


def schedule(file: File) -> Results:
    """The shipped schedule, shortened to the file's epochs."""
    epochs, warmup, length = (int(file[name]) for name in ('epochs', 'warmup_epochs', 'iters_per_epoch'))
    rising, falling = Config.fromfile(SCHEDULE).param_scheduler
    rising |= dict(file.numbers('start_factor'), end=warmup)
    falling |= dict(T_max=epochs - warmup, begin=warmup, end=epochs)
    wrapper = OptimWrapper(torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=float(file['base_lr'])))
    extra = dict(optimizer=wrapper, epoch_length=length)
    schedulers = [PARAM_SCHEDULERS.build(option, default_args=extra) for option in (rising, falling)]
    rates = []
    for _ in range(epochs * length):
        rates.append(wrapper.optimizer.param_groups[0]['lr'])
        wrapper.step()
        for scheduler in schedulers:
            scheduler.step()
    return {'lr': torch.tensor(rates, dtype=torch.float64)}


def transforms(file: File) -> Results:
    size, crop = tuple(file['crop_size'].tolist()), file['crop']
    results: dict[str, np.ndarray] = {'flip': crop[:, ::-1], 'gray': RandomGrayscale().change(crop)}
    results |= {'gray_luma': results['gray'][..., 0], 'solarize': Solarize(128).change(crop)}
    for name in ('crop', 'crop_up'):
        results[name] = RandomResizedCrop(size).cut(file['image_rgb'], tuple(file[f'{name}_box_ijhw'].tolist()))
    for name, change in JITTERS.items():
        results |= numbered(f'{name}_', [change(crop, factor) for factor in file[f'{name}_factors'].tolist()])
    blurs = [GaussianBlur((sigma, sigma)).change(crop) for sigma in file['blur_sigmas'].tolist()]
    *factors, sigma, threshold = file['composite_params'].tolist()
    image = crop
    for name, factor in zip(('brightness', 'hue', 'contrast', 'saturation'), factors, strict=True):
        image = JITTERS[name](image, factor)
    image = Solarize(int(threshold)).change(GaussianBlur((sigma, sigma)).change(image))
    mean, std = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
    results |= {'composite': image, 'composite_normalized': ((image - mean) / std).transpose(2, 0, 1)}
    results |= numbered('blur_', blurs) | _crops(*file['rrc_image_wh'].tolist())
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
