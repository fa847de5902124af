"""Valid runs of mmengine's users that no rule may stop or warn of."""

from typing import Any

import pytest
import torch
from mmengine.dataset import BaseDataset
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.registry import DATASETS, LOOPS, MODELS
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import nn
from torch.optim import SGD

from mmdistill_dense.guards import run_rules
from mmdistill_dense.guards.findings import RunFacts
from tests import toys
from tests.guards.roads import WARNINGS, subject, warnings_logged

PLAIN = toys.seg_net('fcn', backbone=dict(init_cfg=None))


@LOOPS.register_module(force=True)
class ShortEpochs(EpochBasedTrainLoop):
    """Epochs of two batches, whatever the sampler gives."""

    def run_epoch(self) -> None:
        self.runner.call_hook('before_train_epoch')
        for number, batch in zip(range(2), self.dataloader, strict=False):
            self.run_iter(number, batch)
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1


@MODELS.register_module(force=True)
class TwoInputs(BaseModel):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 2, 1)

    def forward(self, inputs: Any, data_samples: Any = None, mode: str = 'tensor') -> Any:
        return dict(loss=self.layer(torch.stack(inputs['colour'])).mean())


@DATASETS.register_module(force=True)
class TwoInputsSet(BaseDataset):
    def load_data_list(self) -> list[dict[str, Any]]:
        return [dict(number=number) for number in range(8)]

    def __getitem__(self, index: int) -> dict[str, Any]:
        return dict(inputs=dict(colour=torch.rand(3, 8, 8)), data_samples=dict(number=index))


def short_epochs() -> Any:
    config = toys.run_config(toys.fresh_dir(), PLAIN, epochs=1, log_level='WARNING')
    config.train_cfg = dict(type='ShortEpochs', max_epochs=1, val_interval=10**6)
    config.train_dataloader.sampler = dict(type='InfiniteSampler', shuffle=True)
    return toys.make_runner('', config)


def dict_inputs() -> Any:
    config = toys.run_config(toys.fresh_dir(), PLAIN, iters=2, log_level='WARNING')
    config.model, config.train_dataloader.dataset = dict(type='TwoInputs'), dict(type='TwoInputsSet')
    for key in ('val_dataloader', 'val_evaluator', 'val_cfg'):
        config.pop(key)
    return toys.make_runner('', config)


def no_config() -> Any:
    config = toys.run_config(toys.fresh_dir(), PLAIN, iters=2)
    model = toys.build_plain(PLAIN)
    parts = {key: config[key] for key in ('train_dataloader', 'train_cfg', 'default_hooks', 'default_scope')}
    wrapper = OptimWrapper(SGD(model.parameters(), 0.01))
    return Runner(model, config.work_dir, optim_wrapper=wrapper, experiment_name=toys.fresh_dir().name, **parts)


def resumed_after_load_from() -> Any:
    fixed = toys.seg_net('fcn', backbone=dict(init_cfg=None, frozen_stages=1))
    first = toys.train(toys.fresh_dir(), PLAIN, iters=2).work_dir
    second = toys.train(toys.fresh_dir(), fixed, iters=2, load_from=f'{first}/iter_2.pth').work_dir
    return toys.make_runner(second, fixed, iters=4, resume=True, log_level='WARNING')


@pytest.mark.parametrize('build', [short_epochs, dict_inputs, no_config, resumed_after_load_from])
def test_a_valid_run_is_neither_stopped_nor_warned_of(build: Any) -> None:
    runner = build()
    with warnings_logged() as messages:
        runner.train()
    toys.stop_workers(runner)
    assert runner.iter >= 2 and not [text for text in messages if any(words in text for words in WARNINGS.values())]


LOADER = dict(dataset=dict(data_root='data', ann_file='val.json'))
OTHER = dict(val_dataloader=LOADER, val_evaluator=[dict(ann_file='data/val.json'), dict(ann_file='data/panoptic.json')])
COSINE = [dict(type='CosineAnnealingLR', T_max=None, end=None, by_epoch=False)]
CORNER = dict(decode_head=dict(num_classes=3, ignore_index=None))
THINGS = dict(bbox_head=dict(num_classes=80))


@pytest.mark.parametrize(('rule', 'facts'), [
    (run_rules.evaluators, dict(config=OTHER)),
    (run_rules.evaluators, dict(config=dict(test_evaluator=dict(ann_file='a.json'), test_dataloader=LOADER),
                                   splits=('train', 'val'))),
    (run_rules.rate, dict(config=dict(train_cfg=dict(max_iters=100), param_scheduler=COSINE))),
    (run_rules.labels, dict(network=CORNER)),
    (run_rules.student_classes, dict(network=THINGS, data_classes=['a'] * 133, panoptic=True)),
    (run_rules.student_classes, dict(network=THINGS | dict(language_model={}), data_classes=['a'])),
    (run_rules.optimizer, dict(config=dict(model=dict(type='Other', student='a.py')))),
])  # fmt: skip
def test_a_rule_leaves_a_valid_config_alone(rule: Any, facts: dict[str, Any]) -> None:
    assert not list(rule(subject(**facts)) or ())


def test_an_ordinary_model_of_other_classes_is_warned_of_alone() -> None:
    (finding,) = run_rules.student_classes(RunFacts(subject().config, network=THINGS, data_classes=['a', 'b']))
    assert finding.level == 'warning' and 'set model.bbox_head.num_classes=2' in finding.message
