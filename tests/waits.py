"""How often a training step waits for the device, by method: the measure behind the table of docs/architecture.md.

``python -m tests.waits`` writes the table anew.
"""

import copy
import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import torch

from mmdistill_dense.utils.process import errors_only
from tests import query_nets, toys
from tests.fake_device import DEVICE, DeviceTensor, FakeDevice, on_device

PAGE = Path(__file__).parents[1] / 'docs' / 'architecture.md'
BEGIN = '<!-- Of tests/waits.py: python -m tests.waits -->\n'
END = '<!-- End of tests/waits.py -->\n'
SEGMENTOR, DETECTOR = 'fcn', 'retinanet'
QUEUE = dict(queue_init='random', queue_size=16)
PIXELS = dict(enqueue='pixels', keys_per_image=2, num_pixels=20)
MEMORY = dict(pixel_memory=20, region_memory=4, pixel_contrast=30, region_contrast=9)
SCORES = dict(student_tap='bbox_head.retina_cls', form='sigmoid')


@dataclass(frozen=True)
class Setup:
    """A method on a pair of toys.

    Attributes:
        method: Its class.
        option: Of the distiller.
        kind: Of both networks.
        says: What of the options matters, for the table.
    """

    method: str
    option: dict[str, Any] = field(default_factory=dict)
    kind: str = SEGMENTOR
    says: str = ''


SETUPS = (
    Setup('AfDCD', dict(groups=8, pool_size=1)),
    Setup('AfDCD', dict(groups=8, pool_size=2, projector='enhanced', mask=dict(type='centre'))),
    Setup('AT'),
    Setup('CanKD', dict(student_tap='neck'), DETECTOR),
    Setup('CIRKD', MEMORY),
    Setup('CIRKD', dict(pixel_weight=0, region_weight=0), says='without queues'),
    Setup('CWD'),
    Setup('CrossKD', dict(reuse_from=1), 'atss'),
    Setup('CrossKD', dict(reuse_from=1, normalise='scores'), 'atss', "`normalise='scores'`"),
    Setup('DIST'),
    Setup('DeFeat', kind=DETECTOR),
    Setup('FGD', kind=DETECTOR),
    Setup('FRS', kind=DETECTOR),
    Setup('FeatureMatch'),
    Setup('FitNet'),
    Setup('FreeKD', dict(num_tokens=2), DETECTOR),
    Setup('HeadOutputKD', SCORES, DETECTOR),
    Setup('IFVD'),
    Setup('LD', kind='gfl'),
    Setup('KDDETR', kind='dab'),
    Setup('LogitKD'),
    Setup('MasKD', dict(num_tokens=2), DETECTOR),
    Setup('MGD', kind=DETECTOR),
    Setup('PCD', dict(QUEUE, head=dict(type='mlp2', hidden=32), attention=dict(num_heads=2), center=True)),
    Setup('PCD', dict(QUEUE, student_tap='neck', **PIXELS), DETECTOR),
    Setup('PCD', dict(queue_size=1024), says='queue not yet full'),
    Setup('PKD', dict(student_tap='neck'), DETECTOR),
    Setup('QueryMatch'),
    Setup('QueueKL', dict(queue_size=4, queue_init='random'), DETECTOR),
    Setup('QueueKL', dict(queue_size=4, queue_init='random', own_key=True), DETECTOR),
    Setup('QueueKL', dict(queue_size=1024), says='queue not yet full'),
    Setup('RoIHeadKD', kind='faster_rcnn'),
    Setup('SKD'),
    Setup('SimReg', dict(head=dict(type='linear')), DETECTOR),
    Setup('TokenRelations', dict(num_pixels=9, diagonal=False), DETECTOR),
)


def count(kind: str, distillers: Mapping[str, Any], before: Callable[[Any], None] = lambda model: None) -> FakeDevice:
    """Return a device after the second step of a pair: forward pass and backward pass of a batch of 2, one padded.

    ``before`` gets the model before each of them.
    """
    queries, detects = kind in query_nets.CONFIGS, kind in (*toys.DET, *query_nets.CONFIGS)
    net: Any = query_nets.query_net if queries else toys.det_net if detects else toys.seg_net
    other = dict(allow_random=True, data_preprocessor=dict(mean=[100.0, 110.0, 120.0]))
    if kind == 'atss':  # one head behind both networks
        other['channels'] = 16
    options = dict(student=net(kind), teacher=net(kind, 16, **other), distillers=copy.deepcopy(dict(distillers)))
    with errors_only():
        model = toys.distilled('mmdet' if detects else 'mmseg', **options)
    for distiller in getattr(model, 'distillers', {}).values():
        if hasattr(distiller, 'load_tokens'):
            distiller.load_tokens({name: torch.randn(shape) for name, shape in distiller.token_shapes().items()})
    batch = model.data_preprocessor(_detection_batch() if detects else toys.seg_batch(), True)
    device = FakeDevice()
    with device.running(), _known_to_mm():
        model.to(DEVICE)
        inputs, samples = on_device(batch['inputs']), on_device(batch['data_samples'])
        for _ in range(2):  # the first may look whether all is there
            device.forget()
            before(model)
            toys.total(model.loss(inputs, samples)).backward()
    return device


def _detection_batch() -> dict[str, Any]:
    batch = toys.det_batch()
    batch['inputs'][0] = batch['inputs'][0][:, :40]
    batch['data_samples'][0].set_metainfo(dict(img_shape=(40, toys.SIDE)))
    batch['data_samples'][0].gt_instances.bboxes[:, 1::2].clamp_(max=40)
    return batch


@contextmanager
def _known_to_mm() -> Iterator[None]:
    """Let mmengine index by tensors of the device, and mmcv's compiled operations work on them: what these wait for is
    not known, and not counted."""
    with ExitStack() as stack:
        indexes = import_module('mmengine.structures.instance_data')
        stack.enter_context(mock.patch.object(indexes, 'IndexType', indexes.IndexType | DeviceTensor))
        for name in ('nms', 'roi_align'):
            module = import_module(f'mmcv.ops.{name}')
            stack.enter_context(mock.patch.object(module, 'ext_module', _OnValues(module.ext_module)))
        yield


class _OnValues:
    def __init__(self, module: ModuleType) -> None:
        self.module = module

    def __getattr__(self, name: str) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            made = getattr(self.module, name)(*map(_value, args), **{k: _value(v) for k, v in kwargs.items()})
            return DeviceTensor(made) if isinstance(made, torch.Tensor) else made

        return run


def _value(x: Any) -> Any:
    return x.value if isinstance(x, DeviceTensor) else x


@functools.cache
def _alone(kind: str) -> FakeDevice:
    return count(kind, {})


def rows() -> Iterator[tuple[str, int, int]]:
    """Yield for each set-up its name, how often we wait and how often the mm* packages do, beside the student's own."""
    for setup in SETUPS:
        device, alone = count(setup.kind, dict(x=dict(type=setup.method, **setup.option))), _alone(setup.kind)
        name = f'`{setup.method}`' + (f', {setup.says}' if setup.says else '')
        yield name, device.ours() - alone.ours(), device.others() - alone.others()


def table() -> str:
    """Return the table in Markdown; those that never wait are one row."""
    found = dict.fromkeys(rows())
    never = dict.fromkeys(name for name, *waits in found if not any(waits))
    lines = ['| method | waits | further ones inside the mm\\* packages |', '|---|---|---|']
    lines += [f'| {name} | {ours} | {others} |' for name, ours, others in found if ours or others]
    return '\n'.join([*lines, f'| {"; ".join(sorted(never, key=str.lower))} | 0 | 0 |']) + '\n'


def on_page() -> str:
    """Return the table that the page holds."""
    return PAGE.read_text(encoding='utf-8').partition(BEGIN)[2].partition(END)[0].strip('\n') + '\n'


if __name__ == '__main__':
    before, _, rest = PAGE.read_text(encoding='utf-8').partition(BEGIN)
    PAGE.write_text(f'{before}{BEGIN}\n{table()}\n{END}{rest.partition(END)[2]}', encoding='utf-8')
