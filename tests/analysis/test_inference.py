"""Labels of a network that we run are mmseg's, and the time of a pass is that of the pass."""

import copy
from typing import Any

import pytest
import torch

from mmdistill_dense.apps.inspect.inference import predict_items
from tests import toys

BOXES = [('pred_instances', name) for name in ('bboxes', 'scores', 'labels')]


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
    assert seconds > 0 and not {'inference', 'predict'} & vars(network).keys()
    for sample, other in zip(samples, expected, strict=True):
        for key, name in (('pred_sem_seg', 'data'), ('seg_logits', 'data')) if segments else BOXES:
            assert torch.equal(getattr(sample.get(key), name), getattr(other.get(key), name))
        assert segments or len(sample.pred_instances)
