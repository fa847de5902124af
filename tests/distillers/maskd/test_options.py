"""Settings of the learning."""

import math

import pytest
from mmengine.config import ConfigDict

from mmdistill_dense.distillers.maskd.learning import LearnOptions


def test_defaults_are_the_released_detection_settings():
    learn = LearnOptions.parse({})
    assert learn.max_iters == 2000 and learn.optimizer == dict(type='Adam', lr=0.01, weight_decay=1e-3)
    assert learn.clip_grad is None and learn.dice_weight == 1 and learn.save_interval == 500


def test_cosine_rate():
    rate = LearnOptions().rate
    assert rate(0) == 0.01 and rate(2000) == pytest.approx(1e-6) and rate(1000) == pytest.approx((0.01 + 1e-6) / 2)
    assert rate(500) == pytest.approx(1e-6 + 0.5 * (0.01 - 1e-6) * (1 + math.cos(math.pi / 4)))


def test_poly_rate():
    sgd = dict(type='SGD', lr=0.1, momentum=0.9)
    rate = LearnOptions.parse(dict(optimizer=sgd, schedule='poly', max_iters=10000)).rate
    assert rate(0) == 0.1 and rate(10000) == 0 and rate(2500) == pytest.approx(0.1 * 0.75**0.9)
    other = LearnOptions.parse(dict(optimizer=sgd, schedule='poly', max_iters=100, power=2.0, eta_min=0.02)).rate
    assert other(50) == pytest.approx(0.02 + 0.08 / 4)


def test_identity_is_what_the_result_depends_on():
    one = LearnOptions.parse(dict(save_interval=7, log_interval=9))
    assert one.identity() == LearnOptions().identity()
    for other in (dict(max_iters=7), dict(dice_weight=2.0), dict(schedule='poly'), dict(clip_grad=dict(max_norm=1))):
        assert LearnOptions.parse(other).identity() != LearnOptions().identity(), other


@pytest.mark.parametrize(
    ('option', 'kind', 'words'),
    [
        (dict(max_iter=5), KeyError, r"learn\.max_iter is no option.*Did you mean 'max_iters'"),
        (dict(max_iters=0), ValueError, r'learn\.max_iters must be a whole number >= 1, got 0'),
        (dict(save_interval=1.5), ValueError, r'learn\.save_interval'),
        (dict(schedule='step'), ValueError, r"learn\.schedule must be one of 'cosine', 'poly', got 'step'"),
        (dict(power=1.0), ValueError, r"learn\.power has an effect only with learn.schedule='poly'"),
        (dict(optimizer='Adam'), ValueError, r'learn\.optimizer must be a dict, got'),
        (dict(optimizer=dict(type='Adam')), ValueError, r'learn\.optimizer must be dict'),
        (dict(optimizer=dict(type='Adm', lr=1.0)), ValueError, r'learn\.optimizer=.*cannot be built: .*Adm'),
        (dict(optimizer=dict(type='Adam', lr=1.0, decay=2)), ValueError, r'learn\.optimizer=.*decay.*cannot be built'),
        (dict(clip_grad=35), ValueError, r'learn\.clip_grad must be a dict or None, got 35'),
        (dict(clip_grad=dict(norm=3)), ValueError, r'learn\.clip_grad'),
        (dict(dice_weight=-1), ValueError, r'learn\.dice_weight'),
        (dict(dice_weight='a'), ValueError, r"learn\.dice_weight must be a finite number, got 'a'"),
        (5, ValueError, 'learn must be a dict of options, got 5'),
    ],
)
def test_refused(option, kind, words):
    with pytest.raises(kind, match=words):
        LearnOptions.parse(option)


def test_options_of_a_config_file_become_plain():
    """They are kept in token files, which are read without mmengine's classes."""
    given = ConfigDict(optimizer=dict(type='Adam', lr=0.1, betas=[0.9, 0.99]), clip_grad=dict(max_norm=35))
    learn = LearnOptions.parse(given)
    assert type(learn.optimizer) is dict and type(learn.clip_grad) is dict and type(learn.optimizer['betas']) is list
    assert learn.optimizer == given.optimizer.to_dict() and learn.clip_grad == dict(max_norm=35)
