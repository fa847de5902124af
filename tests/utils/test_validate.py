"""What is said of an option that is out of its range, once for all methods."""

import argparse

import pytest

from mmdistill_dense.utils import validate


@pytest.mark.parametrize(('rule', 'given', 'taken', 'words'), [
    ('check_option', ('a', 'x', [None, 'y']), ('a', 'y', [None, 'y']), "a must be one of None, 'y', got 'x'."),
    ('check_count', ('a', 0, 1), ('a', 1, 1), 'a must be a whole number >= 1, got 0.'),
    ('check_count', ('a', 2.0, 1), ('a', 2, 1), 'a must be a whole number >= 1, got 2.0.'),
    ('check_count', ('a', True, 1), ('a', 5, 5), 'a must be a whole number >= 1, got True.'),
    ('check_share', ('a', 1), ('a', 0), 'a must be a number in [0, 1), got 1.'),
    ('check_share', ('a', -0.1), ('a', 0.99), 'a must be a number in [0, 1), got -0.1.'),
])  # fmt: skip
def test_a_rule_names_the_option_what_would_work_and_what_was_given(rule, given, taken, words):
    getattr(validate, rule)(*taken)
    with pytest.raises(ValueError) as error:
        getattr(validate, rule)(*given)
    assert str(error.value) == words


@pytest.mark.parametrize('weights', [dict(a=0, b=0.0), dict(a=-1, b=2)])
def test_weights_are_named_together(weights):
    validate.check_weights(a=0, b=1e-9)
    with pytest.raises(ValueError, match=r'a, b must be >= 0 and not all 0, got .*, .*; loss_weight=0 leaves it out'):
        validate.check_weights(**weights)


@pytest.mark.parametrize(('kind', 'right', 'wrong'), [
    ('counted', ['1', '12'], ['0', '-1', '1.5', 'a', '']),
    ('positive', ['1e-9', '2'], ['0', '-1', 'nan', 'inf', 'a']),
    ('fraction', ['0', '1', '0.5'], ['-0.1', '1.1', 'nan', 'a']),
])  # fmt: skip
def test_words_of_a_command_line(kind, right, wrong):
    read = getattr(validate, kind)
    assert [read(word) for word in right] == [float(word) for word in right]
    for word in wrong:
        with pytest.raises(argparse.ArgumentTypeError, match=f'^must be .*, got {word!r}$'):
            read(word)
