"""Options of a wrong type: every method names the option, the type that it takes, and what was given."""

import inspect
import math
from typing import Annotated, ClassVar, Literal, get_args, get_origin

import pytest

from mmdistill_dense.config.unknown_keys import options_of
from mmdistill_dense.distillers import CWD, MGD, AfDCD, Distiller, FeatureDistiller, FeatureMatch, MasKD
from mmdistill_dense.registry import DISTILLERS
from mmdistill_dense.utils.validate import Positive, _hints, _members, check_types
from tests import toys

METHODS = {
    name: kind for name, kind in DISTILLERS.module_dict.items() if kind.__module__.startswith('mmdistill_dense.')
}
WRONG = ('4', True, math.nan, math.inf, -math.inf, [1.0], dict(a=1), None)


def options(kinds):
    """Method, option and types of all options that take one of these types, in a range or not."""
    for method, kind in METHODS.items():
        for name in inspect.signature(kind).parameters:
            hints = [get_args(one)[0] if get_origin(one) is Annotated else one for one in _members(_hints(kind)[name])]
            if {get_origin(one) or one for one in hints} & kinds:
                yield pytest.param(kind, name, hints, id=f'{method}.{name}')


def made(kind, **given):
    taps = {name: 'neck' for name, one in inspect.signature(kind).parameters.items()
            if name == 'student_tap' and one.default is one.empty}  # fmt: skip
    return kind(**{**taps, **given})


@pytest.mark.parametrize(('kind', 'name', 'hints'), options({int, float}))
def test_every_number_refuses_what_is_none(kind, name, hints):
    takes_dicts = any('Mapping' in str(one) for one in hints)
    for value in WRONG:
        if (value is None and type(None) in hints) or (isinstance(value, dict) and takes_dicts):
            continue
        with pytest.raises((TypeError, ValueError), match=rf'\b{name} must be .* got .*') as caught:
            made(kind, **{name: value})
        assert repr(value) in str(caught.value)
    if float not in hints:
        with pytest.raises((TypeError, ValueError), match=rf'\b{name} must be a whole number.*2\.5'):
            made(kind, **{name: 2.5})


@pytest.mark.parametrize(('kind', 'name', 'hints'), options({Literal}))
def test_every_choice_refuses_what_is_none_of_it(kind, name, hints):
    for value in ('no such word', 5, ['x'], 1.5):
        if isinstance(value, (int, float)) and {int, float} & {*hints}:
            continue
        with pytest.raises((TypeError, ValueError), match=rf'\b{name} must be .*got '):
            made(kind, **{name: value})


@pytest.mark.parametrize(('kind', 'name', 'hints'), options({bool}))
def test_every_switch_refuses_what_is_none(kind, name, hints):
    for value in ('yes', 1, 0, 'False', []):
        with pytest.raises(ValueError, match=rf'\b{name} must be True or False, got '):
            made(kind, **{name: value})


# A value that a rule refuses, and the options of that rule; its text is asked in tests/utils/test_validate.py.
REFUSED = {
    -1: 'AfDCD.fd_weight CIRKD.pixel_weight CrossKD.beta CrossKD.class_weight CrossKD.reuse_from DIST.gamma FGD.alpha '
        'DeFeat.foreground_weight FGD.lambda_ FreeKD.mse_weight KDDETR.general LD.class_weight LD.main_weight '
        'MasKD.student_mask_from PCD.monitor_interval QueueKL.student_temperature CWD.temperature',
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
ONE_WRONG = [(*place.split('.'), value) for value, places in REFUSED.items() for place in places.split()]
NOT_ALL_0 = 'must be >= 0 and not all 0'
VALUES = [
    ('AfDCD', dict(fd_weight=0, ctr_weight=0), f'fd_weight, ctr_weight {NOT_ALL_0}, got 0, 0; loss_weight=0'),
    ('AfDCD', dict(mask=dict(type='block')), "mask.type must be one of 'random', 'centre', got 'block'"),
    ('AfDCD', dict(mask=dict(type='centre', ratio=0.5)), "mask of type 'centre' has no ratio"),
    ('AfDCD', dict(mask=dict(type='random', ratio=1.0)), r'mask.ratio must be a number in \[0, 1\), got 1.0'),
    ('CIRKD', dict(minibatch_weight=0, pixel_weight=0, region_weight=0), NOT_ALL_0),
    ('DIST', dict(beta=0, gamma=0), f'beta, gamma {NOT_ALL_0}, got 0, 0'),
    ('KDDETR', dict(general=0, specific=False), 'leave no queries'),
    ('FeatureMatch', dict(cosine=0, smooth_l1=0), f'cosine, smooth_l1, mse {NOT_ALL_0}'),
    ('FRS', dict(feature_weight=-1.0), f'feature_weight, class_weight {NOT_ALL_0}, got -1.0'),
    ('FRS', dict(align='conv5'), 'align'),
    ('FRS', dict(student_tap='neck'), 'must be two taps without weights, e.g. .*got .*neck'),
    ('FRS', dict(student_tap=[('neck', 0.5), 'bbox_head[0]']), 'two taps without weights'),
    ('FRS', dict(student_tap='auto'), 'it compares class scores beside the maps'),
    ('HeadOutputKD', dict(form='l1', beta=1.0), "beta > 0 belongs to form='smooth_l1', got 1.0 with form='l1'"),
    ('HeadOutputKD', dict(form='sigmoid', num_classes=3), "num_classes >= 2 belongs to form='softmax', got 3 with"),
    ('HeadOutputKD', dict(form='softmax', num_classes=1), "num_classes >= 2 .* got 1 with form='softmax'"),
    ('HeadOutputKD', dict(form='softmax', temperature=0), "temperature > 0 .* got 0 with form='softmax'"),
    ('HeadOutputKD', dict(temperature=2.0), "temperature > 0 .* got 2.0 with form='smooth_l1'"),
    ('LD', dict(main_weight=0, valuable_weight=0, class_weight=0), f'main_weight, .* {NOT_ALL_0}, got 0, 0, 0'),
    ('LogitKD', dict(standardise=True, activation='sigmoid'), 'standardise needs class scores that compete'),
    ('RoIHeadKD', dict(standardise=True), 'standardise needs class scores that compete'),
    ('MasKD', dict(eps=-1e-5), 'eps must be a finite number >= 0, got -1e-05'),
    ('FRS', dict(feature_weight=0, class_weight=0), f'feature_weight, class_weight {NOT_ALL_0}, got 0, 0'),
    ('DIST', dict(align='conv'), "DIST has no option 'align'"),
    ('MasKD', dict(learn=dict(iterations=5)), "learn has no option 'iterations'"),
    ('PCD', dict(attention=dict(heads=8)), 'attention has no heads; its keys are num_heads'),
    ('PCD', dict(head=dict(bias='hidden')), "head.bias must be one of None, True, False, got 'hidden'"),
    ('PCD', dict(head=dict(type='conv')), "head.type must be one of 'linear', 'mlp', 'mlp2', 'mlp4', got 'conv'"),
    ('PCD', dict(head=dict(type='linear', hidden=64)), "head.hidden needs type='mlp', 'mlp2' or 'mlp4', got hidden=64"),
    ('PCD', dict(head=dict(type='linear', layers=3)), "head.layers needs type='mlp', 'mlp2' or 'mlp4', got layers=3"),
    ('PCD', dict(head=dict(type='mlp', bias='last')), "head.bias must be one of None, True, False, 'hidden', got"),
    ('PCD', dict(head=dict(type='mlp', hidden=0)), 'head.hidden must be a whole number >= 1, got 0'),
    ('PCD', dict(head=dict(type='mlp', layers=0)), 'head.layers must be a whole number >= 1, got 0'),
    ('PCD', dict(head=dict(width=3)), 'head has no width; its keys are type, hidden, bias, layers'),
    ('PCD', dict(queue_size='auto', keys_per_image=2), "queue_size='auto' chooses keys_per_image too"),
    ('QueueKL', dict(head=dict(type='conv')), 'head.type must be one of'),
    ('RoIHeadKD', dict(form='dist', beta=1.0), "beta > 0 belongs to form='smooth_l1'"),
    ('RoIHeadKD', dict(form='l1', temperature=1.0), 'temperature > 0 belongs to the forms of class scores'),
    ('RoIHeadKD', dict(student_tap=['a', 'b']), r"student_tap must be one tap, got \['a', 'b'\]"),
    ('SimReg', dict(head=dict(type='mlp4', layer=2)), 'head has no layer; its keys are type'),
    ('SKD', dict(patch_size=2, pool_scale=0.5), 'both set the patch: give only one'),
]


@pytest.mark.parametrize(('method', 'name', 'value'), ONE_WRONG)
def test_a_value_out_of_its_range_is_named(method, name, value):
    with pytest.raises((ValueError, TypeError), match=rf'\b{name}\b.* (got|at least) .*{value}'):
        made(METHODS[method], **{name: value})


@pytest.mark.parametrize(('method', 'given', 'words'), VALUES)
def test_values_that_no_method_takes_are_named(method, given, words):
    with pytest.raises((ValueError, TypeError, KeyError), match=words):
        made(METHODS[method], **given)


def test_all_methods_are_there_and_their_defaults_are_taken():
    assert len(METHODS) > 15 and len(list(options({int, float}))) > 100
    for kind in METHODS.values():
        made(kind)


@pytest.mark.parametrize(('make', 'words'), [
    (lambda: CWD(temperature='4'), r"^temperature must be a finite number > 0, got '4'\.$"),
    (lambda: MasKD(student_mask_from=-1), r'^student_mask_from must be a whole number >= 0 or None, got -1\.$'),
    (lambda: MGD(mask_ratio=1.0), r'^mask_ratio must be a (finite )?number in \[0, 1\), got 1\.0\.$'),
    (lambda: CWD('decode_head', schedule=5), r'^schedule must be a dict or None, got 5\.$'),
    (lambda: AfDCD(mask='random'), r"^mask must be a dict or None, got 'random'\.$"),
    (lambda: AfDCD(mask=dict(type='random', ratio='0.5')), r"^mask\.ratio must be a number in \[0, 1\), got '0\.5'"),
    (lambda: AfDCD(patch_size=('4', 4)), r'^patch_size must be a list, each member a whole number or None, got \('),
    (lambda: FeatureMatch(cosine=math.nan), r'^cosine must be a finite number, got nan\.$'),
    (lambda: MasKD(learn=dict(dice_weight=math.inf)), r'^learn\.dice_weight must be a finite number >= 0, got inf\.$'),
    (lambda: MasKD(learn=dict(optimizer='Adam')), r"^learn\.optimizer must be a dict, got 'Adam'\.$"),
    (lambda: CWD(clip_max_norm=math.nan), r'^clip_max_norm must be a finite number > 0 or None, got nan\.$'),
])  # fmt: skip
def test_the_message_says_option_type_and_value(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_a_method_of_ones_own_is_checked_by_its_annotations():
    class Own(Distiller):
        def __init__(self, power: float = 2, tokens: 'list | NoSuchName' = (), **kwargs):  # noqa: F821
            super().__init__('backbone', **kwargs)

    class Known(Distiller):
        def __init__(self, power: float = 2, extra=None, things: set = frozenset(), **kwargs):
            super().__init__('backbone', **kwargs)

    Own(power='two')  # its annotations cannot be read
    Known(3, extra=object(), things={1}, loss_weight=2)
    for wrong in (dict(power='two'), dict(loss_weight='two')):
        with pytest.raises(ValueError, match="must be a finite number.*'two'"):
            Known(**wrong)
    check_types(Known, dict(unknown='two'))


@pytest.mark.parametrize('name', ['items', 'training', 'forward', 'state_dict', '_modules', 'a.b', 'my_loss', '', 3])
def test_names_of_distillers_that_are_none(name):
    with pytest.raises(ValueError, match=rf'model\.distillers\.{name}: the name of a distiller is a text'):
        toys.build(toys.model_config(toys.seg_net('fcn'), distillers={name: dict(type='LogitKD')}))


def test_a_config_names_the_distiller_too():
    with pytest.raises(
        ValueError, match=r"^model\.distillers\.kd: temperature must be a finite number > 0, got '4'\.$"
    ):
        toys.build(toys.model_config(toys.seg_net('fcn'), distillers=dict(kd=dict(type='LogitKD', temperature='4'))))


def test_pictures_without_labels_that_nothing_packs(tmp_path):
    more = dict(data_root=toys.picture_folder(), pipeline=[dict(type='LoadImageFromFile')])
    model = toys.model_config(toys.seg_net('fcn'), toys.seg_teacher('fcn'), unlabelled=more)
    with pytest.raises(ValueError, match=r'model\.unlabelled\.pipeline gives no inputs \(.*img.*\): let its last step'):
        toys.train(tmp_path, model, iters=1)


@pytest.mark.parametrize('kind', METHODS.values(), ids=list(METHODS))
def test_help_shows_the_options_that_a_config_may_hold(kind):
    shown = list(inspect.signature(kind).parameters)
    assert shown == options_of(kind) and {'loss_weight', 'schedule'} <= {*shown}
    assert not {'args', 'taps', 'options', 'kwargs'} & {*shown}


def test_an_option_is_declared_with_its_default_and_checked():
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


class Closed(CWD):
    """A constructor without options, which gives its base values that no config gives."""

    def __init__(self):
        super().__init__(temperature=2.0)


class Renamed(CWD):
    needs_labels: bool = True

    def __init__(self, tau=4.0, **options):
        super().__init__(temperature=tau, **options)


def test_a_constructor_of_ones_own_gives_its_base_what_it_likes():
    assert Closed().temperature == 2.0 and options_of(Closed) == [] and Closed().student_taps == CWD().student_taps
    assert Renamed(tau=3.0, norm=True).temperature == 3.0 and 'needs_labels' not in options_of(Renamed)
    with pytest.raises(TypeError, match="no option 'temprature'.*temperature"):
        Renamed(temprature=3.0)


@pytest.mark.parametrize(('given', 'words'), [
    (dict(tau=0), 'temperature must be a finite number > 0, got 0'),
    (dict(loss_weight=-1), 'loss_weight must be .* >= 0'),
])  # fmt: skip
def test_what_a_subclass_gives_its_base_is_in_range(given, words):
    with pytest.raises(ValueError, match=words):
        Renamed(**given)
    with pytest.raises(ValueError, match='temperature must be a finite number > 0, got 0'):
        type('Cold', (CWD,), dict(temperature=0))()
