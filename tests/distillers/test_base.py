"""What all distillers share, and classes by their names."""

import sys

import pytest
import torch
from torch import nn

from mmdistill_dense import DISTILLERS
from mmdistill_dense.distillers import Distiller, FeatureDistiller
from mmdistill_dense.distillers.base import RunState
from tests.gloo import start


class Told(FeatureDistiller):
    """Means of both maps: makes weights, levels and sizes visible; a figure for the log that each level may have."""

    def loss(self, student, teacher, level):
        self.sizes = student.shape[2:], teacher.shape[2:]
        terms = {'loss_student': student.mean(), 'loss_teacher': teacher.mean(), 'seen': student.mean()}
        return terms if level else dict(terms, once=student.mean())


class Plain(FeatureDistiller):
    def loss(self, student, teacher, level):
        return (student - teacher).square().mean()


def size(*shape):
    return torch.Size((1, *shape))


ONE = size(2, 4, 4)


def set_up(distiller, student, teacher=None):
    """Set up for shapes by tap, by default those of the student on both sides."""
    distiller.name = 'x'
    distiller.setup(student, student if teacher is None else teacher)
    return distiller


def filled(*values):
    return [torch.full((1, 2, 4, 4), float(value)) for value in values]


def test_taps_and_weights():
    distiller = Plain(['a', ('b[1]', 0.4)])
    assert [str(tap) for tap in distiller.student_taps] == ['a', 'b[1]'] and distiller.tap_weights == [1.0, 0.4]
    assert distiller.teacher_taps == distiller.student_taps
    assert [str(tap) for tap in Plain('a', 'c').teacher_taps] == ['c']
    assert [str(tap) for tap in Plain(['a', ['b', 2]]).student_taps] == ['a', 'b'], 'configs turn tuples into lists'
    assert "student_tap='a'" in repr(Plain('a', 'c')) and "teacher_tap='c'" in repr(Plain('a', 'c'))


def test_levels_are_weighted():
    distiller = Told(['a', ('b', 3.0)], ['c', 'd'])
    shapes = {'a': [ONE, ONE], 'b': [ONE]}
    set_up(distiller, shapes, {'c': shapes['a'], 'd': shapes['b']})
    assert [level.weight for level in distiller.levels] == [1, 1, 3]
    assert distiller.levels[1].name == 'a -> c (level 1)' and distiller.levels[2].student == (2, 4, 4)
    student, teacher = {'a': filled(1, 2), 'b': filled(4)}, {'c': filled(10, 20), 'd': filled(40)}
    losses = distiller.step(student, teacher, None)
    assert losses == {'loss_student': 15, 'loss_teacher': 150, 'seen': 15 / 5, 'once': 1}
    off = set_up(Told([('a', 0.0)]), {'a': [ONE]})
    assert not any(off({'a': filled(1)}, {'a': filled(1)}, None).values())
    weighted = set_up(Told('a', loss_weight=2.0), {'a': [ONE]})
    expected = {'loss_student': 2, 'loss_teacher': 2, 'seen': 1, 'once': 1}
    assert weighted.step({'a': filled(1)}, {'a': filled(1)}, None) == expected, 'the weight is of losses alone'


def test_views_are_averaged():
    distiller = set_up(Plain([('a', 3.0), 'b']), {'a': [ONE] * 2, 'b': [ONE]})
    student = {'a': filled(1, 2, 5, 6), 'b': filled(3, 7)}  # first view: 1, 2, 3
    teacher = {'a': filled(0, 0, 0, 0), 'b': filled(0, 0)}
    assert distiller(student, teacher, None) == {'loss_plain': (3 * (1 + 4) + 9 + 3 * (25 + 36) + 49) / 2}
    text = set_up(Told([('a', 3.0), 'b']), {'a': [ONE], 'b': [ONE]})
    views = {'a': filled(1, 5), 'b': filled(2, 6)}
    assert text(views, views, None)['seen'] == (5 + 3 * 5 + 6) / 8
    with pytest.raises(RuntimeError, match='5 student and 6 teacher maps were recorded, 3 were seen'):
        distiller({**student, 'a': student['a'][:3]}, teacher, None)


def test_other_maps_than_the_others_or_than_at_construction():
    with pytest.raises(ValueError, match=r"distillers\.x: .*gives 3 tensors.*tap 'a' 2.*index"):
        set_up(Plain('a'), {'a': [ONE] * 3}, {'a': [ONE] * 2})
    distiller = set_up(Plain('a'), {'a': [ONE]})
    with pytest.raises(RuntimeError, match='2 student and 1 teacher maps were recorded, 1 were seen'):
        distiller({'a': filled(1, 1)}, {'a': filled(1)}, None)
    with pytest.raises(ValueError, match=r'student map of \(4, 4\) and a teacher map of \(6, 6\).*resize'):
        distiller({'a': filled(1)}, {'a': [torch.ones(1, 2, 6, 6)]}, None)


def test_align_and_resize():
    for align, channels, kind in (('auto', 2, nn.Conv2d), ('auto', 5, nn.Identity), ('conv', 5, nn.Conv2d),
                             ('none', 5, nn.Identity)):  # fmt: skip
        distiller = set_up(Plain('a', align=align), *({'a': [size(count, 4, 4)]} for count in (channels, 5)))
        assert type(distiller.aligns[0]) is kind
        assert kind is nn.Identity or distiller.aligns[0].weight.shape == (5, channels, 1, 1)
    for resize, expected in (('student', (8, 8)), ('teacher', (4, 4))):
        distiller = set_up(Told('a', resize=resize), {'a': [ONE]}, {'a': [size(3, 8, 8)]})
        distiller({'a': [torch.ones(2, 2, 4, 4)]}, {'a': [torch.ones(2, 3, 8, 8)]}, None)
        assert distiller.sizes == (expected, expected)


def test_a_generator_depends_on_its_place():
    def numbers(name='x', **place):
        distiller = Plain('a')
        distiller.name = name
        distiller.state = RunState(**dict(dict(iteration=1, seed=2, rank=3, max_iters=9), **place))
        return tuple(torch.rand(3, generator=distiller.generator()).tolist())

    torch.manual_seed(0)
    base = numbers()
    torch.manual_seed(1)
    assert numbers() == base == numbers(max_iters=100)
    others_drawn = {numbers(iteration=2), numbers(seed=3), numbers(rank=0), numbers('y')}
    assert len(others_drawn | {base}) == 5


def register(_: int) -> None:
    """Register classes in a process that has loaded none of these methods."""
    names = 'cwd', 'logit_kd', 'roi_head_kd', 'simreg', 'queue_kl'
    assert not {f'mmdistill_dense.distillers.{name}' for name in names} & {*sys.modules}

    @DISTILLERS.register_module(force=True)
    class CWD(Distiller):
        pass

    @DISTILLERS.register_module()
    class LogitKD(Distiller):  # which files of other methods import
        pass

    @DISTILLERS.register_module()
    class SimReg(Distiller):
        pass

    assert DISTILLERS.get('RoIHeadKD') and DISTILLERS.get('LogitKD') is LogitKD
    assert DISTILLERS.get('QueueKL') and DISTILLERS.get('SimReg') is SimReg
    assert DISTILLERS.get('CWD') is CWD and DISTILLERS.module_dict['CWD'] is CWD and DISTILLERS.get('PKD')


@pytest.mark.soak
def test_a_class_of_the_user_counts_before_a_shipped_one() -> None:
    start(register, processes=1, method='spawn')
