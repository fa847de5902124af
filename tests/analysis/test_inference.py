"""Labels of a network that we run are mmseg's, in less time; and the time of a pass is that of the pass."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from mmdistill_dense.apps.inspect.inference import _QuickLabels, predict_items
from tests import toys

BOXES = [('pred_instances', name) for name in ('bboxes', 'scores', 'labels')]


def test_the_largest_score_has_the_place_that_argmax_gives() -> None:
    """At ties the first one; a NaN is larger than all numbers; axes by keyword and without one."""
    scores = torch.randint(3, (5, 16, 17)).float()
    scores[1, 0], scores[3, 0] = torch.nan, torch.nan
    scores[:, 1], scores[:, 2], scores[2:4, 3] = 7.0, -torch.inf, torch.inf
    with _QuickLabels():
        quick = scores.argmax(dim=0, keepdim=True), scores.argmax(dim=1), scores.argmax()
    for actual, expected in zip(quick, (scores.argmax(0, True), scores.argmax(1), scores.argmax()), strict=True):
        assert torch.equal(actual, expected) and actual.dtype == expected.dtype
    assert quick[0][0, 0, 0] == 1 and quick[0][0, 1, 0] == 0


def test_maps_of_the_size_alone_are_not_enlarged() -> None:
    maps = torch.randn(1, 2, 6, 9)
    for corners in (True, False):
        options = dict(mode='bilinear', align_corners=corners)
        with _QuickLabels():
            assert F.interpolate(maps, (6, 9), **options) is maps
            not_enlarged = [F.interpolate(maps, size, **options) for size in ((9, 6), (6, 10), [5, 9])]
            twice = F.interpolate(maps, scale_factor=2, **options)
        assert torch.equal(F.interpolate(maps, (6, 9), **options), maps)
        for size, other in zip(((9, 6), (6, 10), [5, 9]), not_enlarged, strict=True):
            assert torch.equal(other, F.interpolate(maps, size, **options))
        assert torch.equal(twice, F.interpolate(maps, scale_factor=2, **options))


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
