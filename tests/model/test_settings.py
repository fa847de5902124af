"""``settings='auto'`` and ``'canonical'``: what each method gets, on a pair for segmentation and one for detection."""

import io
import math
import re

import pytest
import torch
from mmengine.config import Config
from rich.console import Console

from mmdistill_dense import distillers
from mmdistill_dense.apps.check import Options, check_config
from mmdistill_dense.apps.check.run import show
from mmdistill_dense.distillers.fragments import expand, replace_settings, resolve_settings
from mmdistill_dense.engine.resume import comparable
from mmdistill_dense.registry import DISTILLERS
from tests import toys
from tests.faults.tools import log_of
from tests.query_nets import query_net

KEY = 'model.distillers.x'
METHODS = {name for name in DISTILLERS.module_dict if name in vars(distillers)}
ANYWHERE = ('AT', 'AfDCD', 'CWD', 'CanKD', 'FitNet', 'FreeKD', 'MGD', 'MasKD', 'PCD', 'PKD', 'SKD')
OF_TOKENS = ('FeatureMatch', 'QueueKL', 'SimReg')
SMALL_CIRKD = dict(pixel_memory=20, region_memory=4, pixel_contrast=30, region_contrast=9, num_classes=toys.NUM_CLASSES)
SEG: dict[str, dict] = {name: {} for name in (*ANYWHERE, 'DIST', 'IFVD', 'LogitKD', *OF_TOKENS)}
SEG['CIRKD'] = SMALL_CIRKD
SCORES = dict(student_tap='bbox_head.retina_cls', activation='sigmoid')
DET: dict[str, dict] = {name: {} for name in (*ANYWHERE, 'DeFeat', 'FGD', *OF_TOKENS)}
DET |= {'DIST': SCORES, 'LogitKD': SCORES, 'HeadOutputKD': dict(student_tap='bbox_head.retina_reg')}
ELSEWHERE = {
    'CrossKD': toys.det_net('atss', bbox_head=dict(stacked_convs=4)),
    'FRS': toys.det_net('fcos'),
    'KDDETR': query_net('dab'),
    'LD': toys.det_net('gfl'),
    'RoIHeadKD': toys.det_net('faster_rcnn'),
}
HEAD = 'decode_head.bottleneck'
LEVELS = ['backbone[1]', 'backbone[2]', 'backbone[3]', HEAD]


def auto(methods):
    return {name.lower(): dict(type=name, settings='auto', **options) for name, options in methods.items()}


def method(kind):
    return DISTILLERS.get(kind)


def taps(distiller):
    return [str(tap) for tap in distiller.student_taps]


def checked(config, methods, **options):
    """The distillers of a check, with a real step, of all methods of a task on one pair."""
    report = check_config(config, Options(weights=False, **options))
    assert report.verdict != 'error', report.findings
    named_methods = {name.lower() for name in methods}
    assert set(report.context.settings) == named_methods == set(report.as_dict()['settings'])
    terms = {term.name.split('.')[1]: term for term in report.context.terms if term.name.startswith('distill.')}
    assert set(terms) == named_methods
    assert all(math.isfinite(term.value) and term.value > 0 for name, term in terms.items() if name != 'pcd')
    text = io.StringIO()
    show(report, Console(file=text, width=400))
    assert re.search(r"settings maskd: 'auto': student_tap='auto', loss_weight=[\d.]+, schedule=.'ram", text.getvalue())
    return report.context.distillers


def test_every_method_for_segmentors_makes_a_step(tmp_path):
    model = toys.model_config(None, toys.seg_net(width=16, allow_random=True), auto(SEG))
    enough = dict(train_dataloader=dict(dataset=dict(num_images=12)))  # for PCD's queue
    actual = checked(toys.run_config(tmp_path, model, iters=40, **enough), SEG)
    assert {name for name, distiller in actual.items() if taps(distiller) == LEVELS} == {
        'at', 'afdcd', 'cankd', 'featurematch', 'fitnet', 'freekd', 'ifvd', 'mgd', 'maskd', 'pcd', 'pkd', 'skd',
    }  # fmt: skip
    assert {tuple(taps(actual[name])) for name in ('cwd', 'dist', 'logitkd')} == {('decode_head.conv_seg',)}
    assert taps(actual['cirkd']) == ['decode_head.conv_seg:input'] and taps(actual['queuekl']) == ['backbone[-1]']
    assert (actual['logitkd'].loss_weight, actual['pcd'].loss_weight) == (2.0, 0.1)
    assert actual['pcd'].chosen_size is not None and actual['pcd'].num_pixels == 512
    each = [actual['afdcd']._options_of(level) for level in actual['afdcd'].levels]
    assert {(option['pool_size'], option['groups']) for option in each} == {(0, 16)}


def test_every_method_for_detectors_makes_a_step(tmp_path):
    model = toys.model_config(toys.det_net(), toys.det_net(width=16, allow_random=True), auto(DET))
    actual = checked(toys.det_run_config(tmp_path, model, iters=40), DET, batch=2, size=(128, 128))
    necks = [f'neck[{level}]' for level in range(5)]
    other_methods = {'dist', 'logitkd', 'headoutputkd', 'queuekl', 'simreg'}
    assert all(set(taps(distiller)) <= set(necks) for name, distiller in actual.items() if name not in other_methods)


@pytest.mark.sample(2)
@pytest.mark.parametrize('kind', ELSEWHERE)
def test_methods_of_other_detectors(kind):
    assert {*SEG, *DET, *ELSEWHERE} == METHODS
    net = ELSEWHERE[kind]
    pair, methods = dict(student=net, teacher=dict(net, allow_random=True)), dict(x=dict(type=kind, settings='auto'))
    model = toys.distilled('mmdet', **pair, distillers=methods)
    losses = toys.losses_of(model, toys.det_batch(side=128))
    assert any(name.startswith('distill.x.loss') and torch.isfinite(value) for name, value in losses.items())


OF_SEGMENTORS, OF_DETECTORS = {'CIRKD', 'IFVD'}, {'CrossKD', 'DeFeat', 'FGD'}


@pytest.mark.parametrize('task', ['seg', 'det'])
def test_a_method_has_settings_or_is_refused(task):
    others = OF_DETECTORS if task == 'seg' else OF_SEGMENTORS
    for kind in METHODS:
        for word in ('auto', 'canonical'):
            option = dict(type=kind, settings=word)
            if kind in others or (word == 'canonical' and kind not in ('LogitKD', 'FitNet')):
                with pytest.raises(ValueError, match='settings'):
                    resolve_settings(option, task, KEY)
            else:
                assert resolve_settings(option, task, KEY)['loss_weight'] > 0


def test_a_config_inherits_a_fragment(tmp_path):
    (tmp_path / 'mine.py').write_text(
        "_base_ = __import__('mmdistill_dense').base('mmdistill_dense::_base_/distillers/auto/maskd_seg.py')\n"
        'distillers = dict(maskd=dict(num_tokens=4))\n'
    )
    options = Config.fromfile(tmp_path / 'mine.py').distillers.to_dict()['maskd']
    assert options == resolve_settings(dict(type='MasKD', settings='auto', num_tokens=4), 'seg', KEY)


def test_given_options_win():
    words = dict(settings='auto', num_tokens=3, loss_weight=0.5, learn=dict(max_iters=9), student_tap='neck')
    actual, message = expand(method('MasKD'), words, 'seg', KEY)
    assert actual['num_tokens'] == 3 and actual['student_tap'] == 'neck'
    assert actual['learn']['max_iters'] == 9 and actual['learn']['optimizer']['type'] == 'SGD'
    assert message.startswith("'auto': ") and 'num_tokens=3' in message, 'what it shows is what holds'
    assert message.endswith('; given, not of the settings: student_tap, loss_weight, num_tokens, learn')
    assert actual['loss_weight'] == 0.5


def test_published_settings_are_those_of_the_method():
    for options in ({}, dict(settings='published')):
        assert expand(method('MasKD'), dict(options, num_tokens=2), 'seg', KEY) == (dict(num_tokens=2), '')
    assert method('MasKD')().settings == ''
    with pytest.raises(TypeError, match=r'Other: SETTINGS has left: write a config fragment'):
        type('Other', (method('FitNet'),), dict(SETTINGS={}))
    shipped = dict(type='AT', loss_weight=3.0)
    assert replace_settings(dict(x=dict(shipped, settings='auto')), dict(x='published'), 'det', 'k') == dict(x=shipped)


@pytest.mark.parametrize(('kind', 'options', 'task', 'message'), [
    ('MasKD', dict(settings='best'), 'seg', r"x\.settings='best' is unknown; MasKD has 'published', 'auto'"),
    ('FitNet', dict(settings='canonial'), 'seg', "has 'published', 'auto', 'canonical'. Did you mean 'canonical'"),
    ('MasKD', dict(settings=dict(a=1)), 'seg', r"x\.settings=\{'a': 1\} is unknown"),
    ('MasKD', dict(settings='canonical'), 'seg', "x.settings='canonical' is unknown; MasKD has 'published', 'auto'"),
    ('CIRKD', dict(settings='auto'), 'det', r'CIRKD has these settings for segmentation \(mmseg\), and the student'),
    ('AT', dict(settings='auto'), None, "the student is for neither. Set the options themselves and settings='pub"),
])  # fmt: skip
def test_mistakes_name_the_key(kind, options, task, message):
    with pytest.raises(ValueError, match=message):
        expand(method(kind), options, task, KEY)


@pytest.mark.parametrize(('kind', 'shipped', 'left'), [
    ('MasKD', dict(learn=dict(max_iters=200)), dict(learn=dict(max_iters=200))),  # the length of learning stays
    (
        'MasKD',
        dict(student_tap='decode_head.conv_seg', weight_mask=False, share_tokens=True, align='none', factor=0.5,
             loss_weight=7.0, learn=dict(max_iters=200), student_mask_from=100),
        dict(learn=dict(max_iters=200), student_mask_from=100),
    ),
    ('LogitKD', dict(student_tap='bbox_head.gfl_cls', activation='sigmoid', loss_weight=2.0, teacher='a'),
     dict(student_tap='bbox_head.gfl_cls', activation='sigmoid', teacher='a')),
    ('PCD', dict(student_tap='neck', teacher_tap='neck', queue_size=9, keys_per_image=3, enqueue='pixels',
                 temperature=0.1), dict(temperature=0.1)),
    ('FGD', dict(schedule=dict(stop_at=0.5), settings='published'), {}),
])  # fmt: skip
def test_settings_in_place_of_shipped_options(kind, shipped, left):
    actual = replace_settings(dict(x=dict(shipped, type=kind)), dict(x='auto'), 'det', 'k')['x']
    assert actual == dict(left, type=kind, settings='auto')
    assert resolve_settings(actual, 'det', KEY)['loss_weight'], 'and they can be expanded'


ATTENTION = dict(type='AT', student_tap='backbone[3]')


def test_a_run_leaves_its_config_as_it_was(tmp_path):
    """The two canonical forms beside a third method."""
    forms = dict(kd=dict(type='LogitKD', settings='canonical'), mimic=dict(type='FitNet', settings='canonical'))
    methods = dict(forms, at=ATTENTION)
    model = toys.model_config(toys.seg_net('fcn'), toys.seg_teacher('fcn'), methods)
    config = toys.run_config(tmp_path, model, log_level='INFO')
    before = config.model.to_dict()
    mimic = toys.train(None, config).model.distillers['mimic']
    assert config.model.to_dict() == before
    text = log_of(tmp_path)
    assert "model.distillers.mimic.settings='canonical': student_tap='auto[-1]', loss_weight=0.3" in text
    assert "settings='canonical': student_tap='auto[-1]'" in repr(mimic)
    assert [tap.path for tap in mimic.student_taps] == ['decode_head.conv_cat'], 'the last pair'
    told = torch.load(tmp_path / 'iter_4.pth', weights_only=False)['meta']['distill']
    then = {**told, 'distillers': {name: dict(facts, settings='x') for name, facts in told['distillers'].items()}}
    assert comparable(then) == comparable(told), 'files of version 0.2 hold the word'
