"""What a network predicts for prepared pictures, and how long its pass takes."""

import time
from collections.abc import Mapping, Sequence
from typing import Any
from unittest import mock

import torch


def predict_items(network: Any, items: Sequence[Mapping[str, Any]], logits: bool = False) -> tuple[list[Any], float]:
    """Return what mmseg or mmdet predicts for pictures after their pipeline, and the seconds of the pass.

    The pass of a segmentor ends with the scores of pixels, before they become labels at the size of the picture; that
    of a detector with its boxes. What normalises and stacks the pictures is no part of it.
    """
    seconds, value = 0.0, next(network.parameters()).detach().flatten()[:1]

    def timed(*args: Any, **kwargs: Any) -> Any:
        nonlocal seconds
        value.cpu()  # waits for what a device still does: a copy ends after it
        start = time.perf_counter()
        outputs = network_pass(*args, **kwargs)
        value.cpu()
        seconds += time.perf_counter() - start
        return outputs

    name = next((name for name in ('inference', 'predict') if hasattr(network, name)), 'test_step')  # else all
    network_pass = getattr(network, name)
    batch = {key: [item[key] for item in items] for key in ('inputs', 'data_samples')}
    with torch.no_grad(), mock.patch.object(network, name, timed):
        samples = network.test_step(batch)
    for sample in () if logits else samples:
        sample.pop('seg_logits', None)  # as many values as pixels times classes
    return samples, seconds
