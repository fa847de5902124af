"""The rules of a built student and its distillers, which every road asks as it does those of ``config_rules``."""

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from mmdistill_dense.guards.findings import Findings, RunFacts, warning


def trained(run: RunFacts) -> Findings:
    """Check that something of the student's backbone is trained."""
    backbone = getattr(run.model, 'backbone', run.model)
    if run.distillers and not any(parameter.requires_grad for parameter in backbone.parameters()):
        yield warning(
            "nothing in the student's backbone is trained (frozen_stages, requires_grad).",
            'Features of a frozen backbone cannot learn from a teacher: lower frozen_stages.',
        )


def random_and_fixed(run: RunFacts) -> Findings:
    """Check that no part of the student's backbone stays at its random start, as mmdet's frozen stages would."""
    backbone = getattr(run.model, 'backbone', None)
    modules = [*run.model.modules()]
    files = 'Pretrained' in str([getattr(module, 'init_cfg', None) for module in modules])
    files = files or any(getattr(module, 'checkpoint', None) for module in modules)
    pairs = (run.config.get('model') or {}).get('inherit') or ()
    inherited = any(str(pair[0]).startswith('backbone') for pair in pairs)
    if backbone is None or files or inherited or run.has_weights:
        return
    run.model.train()
    frozen = sum(parameter.numel() for parameter in backbone.parameters() if not parameter.requires_grad)
    norms = sum(isinstance(module, _BatchNorm) and not module.training for module in backbone.modules())
    if frozen or norms:
        yield warning(
            f"no file is named for the student's backbone, and a part of it stays as it begins: {frozen:,} parameters "
            f'are frozen, {norms} batch norms keep mean 0 and variance 1.',
            'Set backbone.frozen_stages=-1 and backbone.norm_eval=False, or give it weights (backbone.init_cfg).',
        )


def summed(run: RunFacts) -> Findings:
    """Check that the weight of a sum over a segmentor's map was made for a map of this size; not on generated ones."""
    if run.generated or 'decode_head' not in (run.network or {}):
        return
    for name, distiller in run.distillers.items():
        option, reduction, sizes, published, advice = getattr(distiller, 'published_sum', None) or ('',) * 5
        if not option or distiller.balancer is not None or getattr(distiller, reduction) != 'sum':
            continue
        weight, key = getattr(distiller, option), f'model.distillers.{name}'
        for level in distiller.levels if weight else ():
            if level.teacher.numel() not in sizes:
                yield warning(
                    f'{key}.{option}={weight:g} multiplies a sum over {"x".join(map(str, level.teacher))} '
                    f'({level.name}): {weight * level.teacher.numel():.2g} in units of the mean. The published weight '
                    f'is for another map, where it is {published} in units of the mean.',
                    f"Set {key}.{reduction}='mean' and {key}.{option}={advice}.",
                )


def padded(run: RunFacts) -> Findings:
    """Check that the preprocessor does not pad pictures to more than twice their area; not on generated ones."""
    inputs = (run.batch or {}).get('inputs')
    if run.generated or len(run.batch_shape) != 1 or not isinstance(inputs, (list, tuple)):
        return
    shapes = [picture.shape[-2:] for picture in inputs if isinstance(picture, torch.Tensor)]
    if not shapes:
        return
    largest = [max(sides) for sides in zip(*shapes, strict=True)]
    height, width = run.batch_shape[0][-2:]
    if height * width > 2 * largest[0] * largest[1]:
        preprocessor = (run.network or {}).get('data_preprocessor') or {}
        option = 'batch_augments' if 'batch_augments' in preprocessor else 'size'
        yield warning(
            f'{run.key}.data_preprocessor pads pictures of {largest[0]}x{largest[1]} to {height}x{width}: most of '
            'the work is done on padding.',
            f'Set {run.key}.data_preprocessor.{option} to your size, or to None.',
        )


MODEL = (trained, random_and_fixed, summed)
STEP = (padded,)
