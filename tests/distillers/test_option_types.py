"""Options of a wrong type: every method names the option, the type that it takes, and what was given."""

import inspect
import math
from typing import Literal, get_origin

import pytest

from mmdistill_dense.distillers import CWD, AfDCD, Distiller, FeatureMatch, MasKD
from mmdistill_dense.registry import DISTILLERS
from mmdistill_dense.utils.validate import _hints, _members, check_types
from tests import toys

METHODS = {
    name: kind for name, kind in DISTILLERS.module_dict.items() if kind.__module__.startswith('mmdistill_dense.')
}
WRONG = ('4', True, math.nan, math.inf, -math.inf, [1.0], dict(a=1), None)


def options(kinds):
    """Method, option and annotation of all options that take one of these types."""
    for method, kind in METHODS.items():
        for name, hint in _hints(kind).items():
            if {get_origin(one) or one for one in _members(hint)} & kinds and name != 'return':
                yield pytest.param(kind, name, _members(hint), id=f'{method}.{name}')


def made(kind, **given):
    taps = {name: 'neck' for name, one in inspect.signature(kind.__init__).parameters.items()
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


def test_all_methods_are_there_and_their_defaults_are_taken():
    assert len(METHODS) > 15 and len(list(options({int, float}))) > 100
    for kind in METHODS.values():
        made(kind)


@pytest.mark.parametrize(
    ('make', 'words'),
    [
        (lambda: CWD(temperature='4'), r"^temperature must be a finite number, got '4'\.$"),
        (lambda: CWD('decode_head', schedule=5), r'^schedule must be a dict or None, got 5\.$'),
        (lambda: AfDCD(mask='random'), r"^mask must be a dict or None, got 'random'\.$"),
        (
            lambda: AfDCD(mask=dict(type='random', ratio='0.5')),
            r"^mask\.ratio must be a number in \[0, 1\), got '0\.5'",
        ),
        (lambda: AfDCD(patch_size=('4', 4)), r'^patch_size must be a list, each member a whole number or None, got \('),
        (lambda: FeatureMatch(cosine=math.nan), r'^cosine must be a finite number, got nan\.$'),
        (lambda: MasKD(learn=dict(dice_weight=math.inf)), r'^learn\.dice_weight must be a finite number, got inf\.$'),
        (lambda: MasKD(learn=dict(optimizer='Adam')), r"^learn\.optimizer must be a dict, got 'Adam'\.$"),
        (lambda: CWD(clip_max_norm=math.nan), r'^clip_max_norm must be a finite number or None, got nan\.$'),
    ],
)
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
    with pytest.raises(ValueError, match=r"^model\.distillers\.kd: temperature must be a finite number, got '4'\.$"):
        toys.build(toys.model_config(toys.seg_net('fcn'), distillers=dict(kd=dict(type='LogitKD', temperature='4'))))


def test_pictures_without_labels_that_nothing_packs(tmp_path):
    more = dict(data_root=toys.picture_folder(), pipeline=[dict(type='LoadImageFromFile')])
    model = toys.model_config(toys.seg_net('fcn'), toys.seg_teacher('fcn'), unlabelled=more)
    with pytest.raises(ValueError, match=r'model\.unlabelled\.pipeline gives no inputs \(.*img.*\): let its last step'):
        toys.train(tmp_path, model, iters=1)


@pytest.mark.parametrize('kind', METHODS.values(), ids=list(METHODS))
def test_help_shows_the_options_of_the_constructor(kind):
    shown = list(inspect.signature(kind).parameters)
    assert ['self', *shown] == list(inspect.signature(kind.__init__).parameters) and shown[0] != 'args'
