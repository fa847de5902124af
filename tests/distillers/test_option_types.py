"""Options of a wrong type: every method names the option, the type that it takes, and what was given."""

import inspect
import math
import re
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, get_args, get_origin

import pytest

from mmdistill_dense.config.unknown_keys import options_of
from mmdistill_dense.distillers import Distiller, FeatureDistiller
from mmdistill_dense.registry import DISTILLERS
from mmdistill_dense.utils.validate import Positive, _hints, _members, check_types
from tests import toys

METHODS = {
    name: kind for name, kind in DISTILLERS.module_dict.items() if kind.__module__.startswith('mmdistill_dense.')
}
WRONG = ('4', True, math.nan, math.inf, -math.inf, [1.0], dict(a=1), None)


def refusal(kind, options):
    taps = {name: 'neck' for name, parameter in inspect.signature(kind).parameters.items()
            if name == 'student_tap' and parameter.default is parameter.empty}  # fmt: skip
    try:
        kind(**{**taps, **options})
    except (TypeError, ValueError) as error:
        return str(error)
    return ''


def refused(kind, name):
    """Values that an option does not take, and what must be said of each."""
    hints = [get_args(one)[0] if get_origin(one) is Annotated else one for one in _members(_hints(kind)[name])]
    types = {get_origin(one) or one for one in hints}
    if types & {int, float}:
        for value in WRONG:
            if not (value is None and type(None) in types) and not (isinstance(value, dict) and Mapping in types):
                yield value, f'must be .* got .*{re.escape(repr(value))}'
        if float not in types:
            yield 2.5, r'must be a whole number.*2\.5'
    if Literal in types:
        for value in ('no such word', 5, ['x'], 1.5):
            if not isinstance(value, (int, float)) or not types & {int, float}:
                yield value, 'must be .*got '
    if bool in types:
        yield from ((value, 'must be True or False, got ') for value in ('yes', 1, 0, 'False', []))


@pytest.mark.parametrize('kind', METHODS.values(), ids=list(METHODS))
def test_every_option_is_declared(kind):
    shown = list(inspect.signature(kind).parameters)
    assert shown == options_of(kind) and {'loss_weight', 'schedule'} <= {*shown}
    assert not {'args', 'taps', 'options', 'kwargs'} & {*shown}
    assert not refusal(kind, {})
    for name in shown:
        for value, words in refused(kind, name):
            assert re.search(rf'\b{name} {words}', refusal(kind, {name: value})), (name, value)


def test_all_methods_are_there():
    checked = [name for kind in METHODS.values() for name in options_of(kind) if any(refused(kind, name))]
    assert len(METHODS) > 15 and len(checked) > 100


# A value that a rule refuses, and the options of that rule; its text is asked in tests/utils/test_helpers.py.
REFUSED = {
    -1: 'AfDCD.fd_weight CIRKD.pixel_weight CrossKD.beta CrossKD.class_weight CrossKD.reuse_from DIST.gamma FGD.alpha '
        'DeFeat.foreground_weight FGD.lambda_ FreeKD.mse_weight KDDETR.general LD.class_weight LD.main_weight '
        'MasKD.eps MasKD.student_mask_from PCD.monitor_interval QueueKL.student_temperature CWD.temperature',
    0: 'CIRKD.num_classes CIRKD.pool CIRKD.temperature CrossKD.eps DIST.temperature DeFeat.base_size FGD.temperature '
       'FeatureMatch.steps FreeKD.steps HeadOutputKD.beta IFVD.num_classes KDDETR.temperature LD.temperature '
       'LogitKD.temperature MGD.alpha MasKD.factor MasKD.num_tokens PCD.keys_per_image PCD.num_pixels PCD.queue_size '
       'PCD.temperature QueueKL.queue_size SKD.patch_size SKD.pool_scale',
    0.5: 'AT.power',
    1: 'AfDCD.groups LD.ratio MGD.mask_ratio',
    2: 'SKD.pool_scale',
    'most': 'AfDCD.contrast AfDCD.groups AfDCD.pool_size CIRKD.align DeFeat.align FreeKD.bands KDDETR.layers',
    None: 'PCD.resize',
}  # fmt: skip
NOT_ALL_0 = 'must be >= 0 and not all 0'
VALUES = [
    ('AfDCD', dict(fd_weight=0, ctr_weight=0), f'fd_weight, ctr_weight {NOT_ALL_0}, got 0, 0; loss_weight=0'),
    ('AfDCD', dict(mask=dict(type='block')), "mask.type must be one of 'random', 'centre', got 'block'"),
    ('AfDCD', dict(mask=dict(type='centre', ratio=0.5)), "mask.ratio is of type='random'"),
    ('KDDETR', dict(general=0, specific=False), 'leave no queries'),
    ('FeatureMatch', dict(cosine=0, smooth_l1=0), f'cosine, smooth_l1, mse {NOT_ALL_0}'),
    ('FRS', dict(align='conv5'), 'align'),
    ('FRS', dict(student_tap='neck'), 'must be two taps without weights, e.g. .*got .*neck'),
    ('FRS', dict(student_tap=[('neck', 0.5), 'bbox_head[0]']), 'two taps without weights'),
    ('FRS', dict(student_tap='auto'), 'it compares class scores beside the maps'),
    ('HeadOutputKD', dict(form='l1', beta=1.0), "beta > 0 belongs to form='smooth_l1', got 1.0 with form='l1'"),
    ('HeadOutputKD', dict(form='sigmoid', num_classes=3), "num_classes >= 2 belongs to form='softmax', got 3 with"),
    ('HeadOutputKD', dict(form='softmax', num_classes=1), "num_classes >= 2 .* got 1 with form='softmax'"),
    *(('HeadOutputKD', dict(form=form, temperature=beta), f"temperature > 0 .* got {beta} with form='{form}'")
      for form, beta in (('softmax', 0), ('smooth_l1', 2.0))),
    *((method, dict(standardise=True, **more), 'standardise needs class scores that compete')
      for method, more in (('LogitKD', dict(activation='sigmoid')), ('RoIHeadKD', {}))),
    ('DIST', dict(align='conv'), "DIST has no option 'align'"),
    ('PCD', dict(attention=dict(heads=8)), "attention has no option 'heads'; known: num_heads"),
    ('PCD', dict(head=dict(bias='hidden')), "head.bias='hidden' needs a head with hidden layers"),
    ('PCD', dict(head=dict(type='conv')), "head.type must be one of 'linear', 'mlp', 'mlp2', 'mlp4', got 'conv'"),
    *(('PCD', dict(head={'type': 'linear', name: 64}), f"head.{name} needs type='mlp', 'mlp2' or 'mlp4', got {name}=64")
      for name in ('hidden', 'layers')),
    ('PCD', dict(head=dict(type='mlp', bias='last')), "head.bias must be True or .* got 'last'"),
    *(('PCD', dict(head={'type': 'mlp', name: 0}), f'head.{name} must be a whole') for name in ('hidden', 'layers')),
    ('PCD', dict(queue_size='auto', keys_per_image=2), "queue_size='auto' chooses keys_per_image too"),
    ('RoIHeadKD', dict(form='l1', temperature=1.0), 'temperature > 0 belongs to the forms of class scores'),
    ('RoIHeadKD', dict(student_tap=['a', 'b']), r"student_tap must be one tap, got \['a', 'b'\]"),
    ('SimReg', dict(head=dict(type='mlp4', layer=2)), "head has no option 'layer'; known: type"),
    ('SKD', dict(patch_size=2, pool_scale=0.5), 'both set the patch: give only one'),
    ('AfDCD', dict(fd_reduction='sum'), "fd_reduction='sum' needs fd_weight"),
    ('PCD', dict(queue_size='auto', enqueue='pooled'), "queue_size='auto' keeps pixels"),
    ('CWD', dict(schedule=5), r'^schedule must be a dict or None, got 5\.$'),
    ('AfDCD', dict(mask=dict(type='random', ratio='0.5')), r"^mask\.ratio must be .* in \[0, 1\) .*'0\.5'"),
    ('AfDCD', dict(patch_size=('4', 4)), r'^patch_size must be a list, each member a whole number or None, got \('),
    # taps
    ('CWD', dict(student_tap='a..b'), "'a..b' is not a tap"),
    *(('CWD', {'student_tap': 'a', f'{side}_tap': []}, f'{side}_tap is empty') for side in ('student', 'teacher')),
    *(('CWD', dict(student_tap=[tap]), rf"student_tap must be .*, weight >= 0\), got the entry {re.escape(str(tap))}")
      for tap in (('a', 'b'), ('a', 1, 2), ('a', -1), None)),
    ('CWD', dict(student_tap=('a', 0.5)), 'student_tap must be a tap or a list.*got the entry 0.5'),
    ('CWD', dict(student_tap='a', teacher_tap=3), 'teacher_tap must be a tap or a list of taps.*got the entry 3'),
    ('CWD', dict(student_tap='a', teacher_tap=[('b', 2)]), 'holds a weight; weights belong in student_tap'),
    ('CWD', dict(student_tap=['a', 'b'], teacher_tap='c'), 'student_tap has 2 taps and teacher_tap 1'),
    # what all methods have
    ('CWD', dict(loss_weight=-1), 'loss_weight must be a finite number >= 0 or None, got -1'),
    ('CWD', dict(clip_max_norm=0), 'clip_max_norm must be a finite number > 0 or None, got 0'),
    ('CWD', dict(schedule=dict(warm=3)), "schedule has no option 'warm'; known: warmup, ramp_down, stop_at"),
    *(('CWD', dict(schedule=dict(warmup=warmup)), rf'schedule\.warmup must be .*\(0, 1\] .*, got {warmup!r}')
      for warmup in (-1, 1.5, '10', True)),
    ('CWD', dict(schedule=dict(stop_at=0.0)), r'schedule\.stop_at.*got 0\.0'),
    *(('CWD', dict(schedule=dict(ramp_down=ramp)), 'ramp_down must be a list of 2, .*got ') for ramp in (5, (1, 2, 3))),
    *(('CWD', dict(schedule=dict(ramp_down=ramp)), r'ramp_down must begin before it ends')
      for ramp in ((5, 5), (0.5, 0.25))),
    ('CWD', dict(schedule=dict(ramp_down=(1, 2.0))), r'schedule\.ramp_down must be .*got \(1, 2\.0\)'),
]  # fmt: skip


def test_values_out_of_their_range_are_named():
    for value, options in REFUSED.items():
        for method, name in (word.split('.') for word in options.split()):
            message = refusal(METHODS[method], {name: value})
            assert re.search(rf'\b{name}\b.* (got|at least) .*{value}', message), (method, name, value, message)


def test_values_that_no_method_takes_are_named():
    for method, options, words in VALUES:
        message = refusal(METHODS[method], options)
        assert re.search(words, message), (method, options, message)


def test_a_method_of_ones_own_is_checked_by_its_annotations():
    class Own(Distiller):
        def __init__(self, tokens: 'list | NoSuchName' = (), power: 'float' = 2, **kwargs):  # noqa: F821
            super().__init__('backbone', **kwargs)

    class Known(Distiller):
        def __init__(self, power: float = 2, extra=None, things: set = frozenset(), **kwargs):
            super().__init__('backbone', **kwargs)

    Own(tokens='two')  # its annotation cannot be read
    Known(3, extra=object(), things={1}, loss_weight=2)
    for kind, name in ((Own, 'power'), (Known, 'power'), (Known, 'loss_weight')):
        with pytest.raises(ValueError, match=f"{name} must be a finite number.*'two'"):
            kind(**{name: 'two'})
    check_types(Known, dict(unknown='two'))


def test_a_config_names_its_distiller():
    kd = dict(type='LogitKD')
    for name, option, words in (
        ('kd', dict(kd, temperature='4'), r"temperature must be a finite number > 0, got '4'\.$"),
        *((name, kd, 'the name of a distiller is a text')
          for name in ('items', 'training', 'forward', 'state_dict', '_modules', 'a.b', 'my_loss', '', 3)),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=rf'^model\.distillers\.{name}: {words}'):
            toys.build(toys.model_config(toys.seg_net('fcn'), distillers={name: option}))


def test_an_option_is_checked_by_its_declaration():
    class Own(FeatureDistiller):
        student_tap = 'neck'
        power: Positive = 2.0
        words: ClassVar[str] = 'of no option'

    class Louder(Own):
        power = 3.0
        fixed = ('align',)

    assert (Own().power, Louder().power, Louder(power=4).power) == (2, 3, 4)
    assert str(Louder().student_taps[0]) == 'neck' and str(Louder('backbone').student_taps[0]) == 'backbone'
    assert inspect.signature(Louder).parameters['power'].default == 3
    assert {*options_of(Own)} - {*options_of(Louder)} == {'align'} and 'words' not in options_of(Own)
    with pytest.raises(ValueError, match='power must be a finite number > 0, got 0'):
        Louder(power=0)
    for wrong in (dict(align='conv'), dict(pwoer=3), dict(words='more')):
        with pytest.raises(TypeError, match='Louder has no option .*known: student_tap, .*power'):
            Louder(**wrong)
