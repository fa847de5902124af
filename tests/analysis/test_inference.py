"""Labels of a network that we run are mmseg's, in less time; and the time of a pass is that of the pass."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from mmdistill_dense.apps.inspect.inference import _QuickLabels, predict_items
from tests import toys

BOXES = [('pred_instances', name) for name in ('bboxes', 'scores', 'labels')]


def test_maps_of_another_size_are_resized() -> None:
    maps, sizes = torch.randn(1, 2, 6, 9), ((6, 9), (9, 6), (6, 10), (5, 9))
    with _QuickLabels():
        resized = [F.interpolate(maps, size, mode='bilinear') for size in sizes]
    for size, actual in zip(sizes, resized, strict=True):
        assert torch.equal(actual, F.interpolate(maps, size, mode='bilinear'))


@pytest.mark.parametrize('segments', [True, False])
def test_predictions_are_those_of_the_network(segments: bool) -> None:
    option = toys.seg_net('fcn') if segments else toys.det_net('retinanet')
    config = (toys.run_config if segments else toys.det_run_config)('x', option)
    network: Any = toys.build_plain(option, seed=3).eval()
    if not segments:
        network.bbox_head.retina_cls.bias.data.fill_(-0.5)
    batch = next(iter(toys.Runner.build_dataloader(config.train_dataloader)))
    with torch.no_grad():
        expected = network.test_step(copy.deepcopy(batch))
    items = [dict(zip(batch, item, strict=True)) for item in zip(*batch.values(), strict=True)]
    samples, seconds = predict_items(network, items, logits=True)
    assert seconds > 0 and not {'inference', 'predict', 'postprocess_result'} & vars(network).keys()
    for sample, other in zip(samples, expected, strict=True):
        for key, name in (('pred_sem_seg', 'data'), ('seg_logits', 'data')) if segments else BOXES:
            assert torch.equal(getattr(sample.get(key), name), getattr(other.get(key), name))
        assert segments or len(sample.pred_instances)
