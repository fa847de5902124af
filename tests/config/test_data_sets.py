"""All that read the config of a data set look through the same wrappers."""

from typing import Any

import pytest
from mmengine.config import ConfigDict

from mmdistill_dense.apps.inspect.step_cost import pipeline_size
from mmdistill_dense.apps.recipes.named import classes_of
from mmdistill_dense.config.values import chain, layers, members
from mmdistill_dense.guards.config import check_crop
from mmdistill_dense.unlabelled.pictures import training_steps

PIPELINE = [dict(type='LoadImageFromFile'), dict(type='RandomCrop', crop_size=(32, 48))]
PLAIN = dict(type='mmdet.CocoDataset', metainfo=dict(classes=('sky', 'car')), pipeline=PIPELINE)
OTHER = dict(type='mmdet.CocoDataset', metainfo=dict(classes=('sky', 'car')), pipeline=PIPELINE[:1])


def repeated(*inside: Any) -> dict:
    return dict(type='RepeatDataset', times=2, dataset=inside[0])


def joined(*inside: Any) -> dict:
    return dict(type='ConcatDataset', datasets=list(inside))


WRAPPED = {
    'plain': PLAIN,
    'repeated': repeated(PLAIN),
    'joined': joined(PLAIN, OTHER),
    'repeated and joined': repeated(joined(PLAIN, OTHER)),
    'joined and repeated': joined(repeated(repeated(PLAIN)), OTHER),
    'mixed': dict(type='mmdet.MultiImageMixDataset', dataset=joined(PLAIN, OTHER), pipeline=[]),
    'read twice': dict(type='ConcatDataset', datasets=[PLAIN]),
}


@pytest.mark.parametrize('option', WRAPPED.values(), ids=WRAPPED)
def test_a_wrapper_hides_nothing(option: dict) -> None:
    dataset = ConfigDict(option)
    assert classes_of(dataset) == classes_of(PLAIN) == ('sky', 'car')
    assert pipeline_size(dataset) == (48, 32)  # width and height, as mmdet has them
    assert [step['type'] for step in training_steps(dataset)] == ['LoadImageFromFile', 'RandomCrop']
    with pytest.raises(ValueError, match='crop'):
        check_crop(dataset, ConfigDict(data_preprocessor=dict(size=(64, 64))))


def test_each_data_set_is_told_with_its_key_before_what_wraps_it() -> None:
    option = repeated(joined(PLAIN, repeated(OTHER)))
    assert [key for key, _ in layers(option, 'd')] == [
        'd.dataset.datasets.0',
        'd.dataset.datasets.1.dataset',
        'd.dataset.datasets.1',
        'd.dataset',
        'd',
    ]
    assert list(members(option, 'd')) == [('d.dataset.datasets.0', PLAIN), ('d.dataset.datasets.1.dataset', OTHER)]
    assert chain(option) == [PLAIN, option['dataset'], option]
    assert chain(None) == list(layers(None)) == []
