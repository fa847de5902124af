"""What a network predicts for prepared pictures, and how long its pass takes."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


class _QuickLabels(TorchFunctionMode):
    """Run ``argmax`` as ``max``, whose indices are the same in a sixth of the time, and enlarge nothing to its size."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = kwargs or {}
        if function is Tensor.argmax and 'dim' in options:
            return args[0].max(**options).indices
        if function is F.interpolate and options.get('size') == args[0].shape[2:]:
            return args[0]
        return function(*args, **options)


def predict_items(network: Any, items: Sequence[Mapping[str, Any]], logits: bool = False) -> tuple[list[Any], float]:
    """Return what mmseg or mmdet predicts for pictures after their pipeline, and the seconds of the pass.

    The pass of a segmentor ends with the scores of pixels, before they become labels at the size of the picture; that
    of a detector with its boxes. What normalises and stacks the pictures is no part of it.
    """
    seconds, value = 0.0, next(network.parameters()).detach().flatten()[:1]

    def timed(run: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        nonlocal seconds
        value.cpu()  # waits for what a device still does: a copy ends after it
        start = time.perf_counter()
        outputs = run(*args, **kwargs)
        value.cpu()
        seconds += time.perf_counter() - start
        return outputs

    def label(run: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with _QuickLabels():
            return run(*args, **kwargs)

    wrappers = {'inference' if hasattr(network, 'inference') else 'predict': timed, 'postprocess_result': label}
    batch = {key: [item[key] for item in items] for key in ('inputs', 'data_samples')}
    with torch.no_grad(), ExitStack() as stack:
        for name in filter(partial(hasattr, network), wrappers):
            stack.enter_context(mock.patch.object(network, name, partial(wrappers[name], getattr(network, name))))
        samples = network.test_step(batch)
    for sample in () if logits else samples:
        sample.pop('seg_logits', None)  # as many values as pixels times classes
    return samples, seconds
