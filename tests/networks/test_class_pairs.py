"""Pairs of classes by name, and scores of groups, against loops over rows."""

import itertools
import math

import pytest
import torch

from mmdistill_dense.losses import sigmoid_divergence, softmax_divergence
from mmdistill_dense.networks.class_pairs import ClassPairs, Group, check_complete, check_form, check_groups

STUDENT, TEACHER = ('car', 'person', 'forklift'), ('person', 'rider', 'car', 'sky')
MAP = {'person': ['person', 'rider']}
PAIRS = ClassPairs.of(MAP, STUDENT, TEACHER)
COARSE = ClassPairs.of({'car': ['vehicle'], 'truck': ['vehicle']}, ['car', 'dog', 'truck'], ['dog', 'vehicle'])


def naive(z, t, pairs, temperature, weigh):
    """Loops over rows and groups."""
    total = 0.0
    for student_row, other in zip(z.tolist(), t.tolist(), strict=True):
        m = [math.log(sum(math.exp(student_row[c]) for c in group.student)) / temperature for group in pairs.groups]
        n = [math.log(sum(math.exp(other[c]) for c in group.teacher)) / temperature for group in pairs.groups]
        q, p = ([math.exp(x) / sum(map(math.exp, side)) for x in side] for side in (m, n))
        mass = sum(math.exp(other[c]) for group in pairs.groups for c in group.teacher) / sum(map(math.exp, other))
        row = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        total += row * (mass if weigh else 1)
    return temperature**2 * total / len(z)


@pytest.mark.parametrize(('temperature', 'weigh'), itertools.product([1.0, 3.0], [False, True]))
def test_softmax_is_that_of_a_loop(temperature, weigh):
    torch.manual_seed(0)
    coarse = ClassPairs.of({'a': ['x'], 'b': ['x'], 'c': ['y', 'z'], 'd': []}, 'abcd', 'wxyz')
    z, t = torch.randn(7, 4, dtype=torch.float64, requires_grad=True), 2 * torch.randn(7, 4, dtype=torch.float64)
    rows = coarse.mass(t) if weigh else None
    actual = softmax_divergence(*coarse.softmax(z, t), temperature=temperature, weight=rows)
    assert actual.item() == pytest.approx(naive(z.detach(), t, coarse, temperature, weigh), rel=1e-12)
    (grad,) = torch.autograd.grad(actual, z)
    assert (grad[:, 3] == 0).all() and grad.sum(1).abs().max() < 1e-15
    torch.autograd.gradcheck(lambda x: softmax_divergence(*coarse.softmax(x, t), weight=rows), z)


def test_the_order_of_the_names_changes_nothing():
    torch.manual_seed(2)
    z, t = torch.randn(2, 3, 4, 4, dtype=torch.float64), torch.randn(2, 3, 4, 4, dtype=torch.float64)
    one = ClassPairs.of({'a': ['a'], 'b': ['b']}, 'abc', 'abx')
    halves = torch.cat([t, t[:, :1]], 1)
    halves[:, [0, 3]] -= math.log(2)
    two = ClassPairs.of({'b': ['b'], 'a': ['a2', 'a']}, 'abc', ['a', 'b', 'x', 'a2'])
    actual = [softmax_divergence(*pairs.softmax(z, side), temperature=4.0) for pairs, side in ((one, t), (two, halves))]
    torch.testing.assert_close(*actual, rtol=1e-12, atol=0)
    z, t = torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([[0.0, 4.0]])
    assert [x.tolist() for x in COARSE.sigmoid(z, t)] == [[[3, 1]], [[4, 0]]], 'the largest binary score'
    torch.testing.assert_close(COARSE.softmax(z + 1e6, t)[0], COARSE.softmax(z, t)[0])


def test_a_permutation_is_that_of_the_teacher_bit_for_bit():
    torch.manual_seed(3)
    z, t = torch.randn(2, 3, 5, 5), torch.randn(2, 3, 5, 5)
    pairs = ClassPairs.of('auto', 'abc', 'cab')
    assert not pairs.unknown and not pairs.rest and pairs.mass(t) is None
    permuted = t[:, [1, 2, 0]]
    for merge, loss in ((pairs.softmax, softmax_divergence), (pairs.sigmoid, sigmoid_divergence)):
        assert torch.equal(loss(*merge(z, t)), loss(z, permuted))
        assert loss(*merge(permuted, t)) == 0
    same = ClassPairs.of('auto', 'abc', 'abc').softmax(z, t)
    assert same[0] is z and same[1] is t
    assert [ClassPairs.of('auto', 'abc', two).same for two in ('abc', 'cab', 'ab')] == [True, False, False]


def test_sigmoid_scores_take_the_largest_member_by_anchor():
    torch.manual_seed(4)
    z, t = torch.randn(2, 2 * 3, 4, 4), torch.randn(2, 2 * 4, 4, 4)
    student_groups, teacher_groups = PAIRS.anchors(z, t)
    assert student_groups.shape == teacher_groups.shape == (2, 2 * 2, 4, 4)
    for anchor, (group, members) in itertools.product(range(2), enumerate(PAIRS.groups)):
        side = t[:, [4 * anchor + member for member in members.teacher]].amax(1)
        assert torch.equal(teacher_groups[:, 2 * anchor + group], side)
        assert torch.equal(student_groups[:, 2 * anchor + group], z[:, 3 * anchor + members.student[0]])


def test_small_logits_keep_their_digits():
    """Merging logits of -500 in float32 without the row's maximum would lose 3e-5 each."""
    torch.manual_seed(5)
    z, t = torch.randn(4, 3), torch.randn(4, 4)
    expected = softmax_divergence(*PAIRS.softmax(z.double(), t.double()))
    actual = softmax_divergence(*PAIRS.softmax(z.double().sub(500).float(), t.double().sub(500).float()))
    assert abs(actual.double() - expected) < 2e-5 * 1 + 1e-4 * expected
    half = PAIRS.softmax(z.half(), t.half())
    assert half[1].dtype == torch.float32 == PAIRS.mass(t.half()).dtype
    far = torch.tensor([[-1e4, -1e4, -1e4, 0.0]])  # a row of the rest alone
    assert torch.isfinite(softmax_divergence(*PAIRS.softmax(z[:1], far), weight=PAIRS.mass(far)))


OPEN = ['background', 'car', 'forklift'], ['car', 'background', 'dog']
REST = ['background', 'car', 'thing'], ['background', 'car', 'sky', 'dog']
LAMPS = ['traffic-light', 'traffic sign', 'Street_Lamp'], ['traffic light', 'traffic_sign', 'street-lamp']


@pytest.mark.parametrize(('option', 'student', 'teacher', 'groups'), [
    # names are compared without case and separators
    ('auto', ['Traffic_Light', 'bed', 'dog'], ['traffic light', 'bed ', 'cat'], [((0,), (0,)), ((1,), (1,))]),
    ('auto', *LAMPS, [((i,), (i,)) for i in range(3)]),
    ('auto', ['a'], ['A', 'a '], [((0,), (0, 1))]),  # two of one name are merged
    # the rest can be a class and leaves the open background alone
    ({'other': ['*'], 'car': ['car']}, ['car', 'other'], ['sky', 'car', 'tree'], [((0,), (1,)), ((1,), (0, 2))]),
    ({'thing': ['*']}, *REST, [((0,), (0,)), ((1,), (1,)), ((2,), (2, 3))]),
    # a background on both sides is open unless it is named
    ('auto', *OPEN, [((0, 2), (1, 2)), ((1,), (0,))]),
    ({'background': ['background']}, *OPEN, [((0,), (1,)), ((1,), (0,))]),
    ({'background': ['dog']}, *OPEN, [((0,), (2,)), ((1,), (0,))]),
    ({'background': ['background', '*']}, *OPEN, [((0,), (1, 2)), ((1,), (0,))]),  # forklifts are none of it
    ({'car': ['background']}, ['background', 'car'], ['background', 'dog'], [((0, 1), (0,))]),  # closed by the option
])  # fmt: skip
def test_groups(option, student, teacher, groups):
    assert ClassPairs.of(option, student, teacher).groups == tuple(Group(*group) for group in groups)


def test_groups_of_several_students():
    assert COARSE.groups == (Group((0, 2), (1,)), Group((1,), (0,)))
    rows = PAIRS.with_background()
    assert rows.groups == (Group((0,), (2,)), Group((1,), (0, 1)), Group((2, 3), (3, 4)))
    assert not rows.unknown and not rows.rest and rows.mass(torch.zeros(1, 5)) is None


def test_what_is_told():
    pairs = ClassPairs.of('auto', ['car', 'pallet', 'crate'], ['car', 'pallets', 'sky'], 'model.teacher.classes')
    first, second, third = pairs.describe()
    assert first == 'model.teacher.classes: 1 of 3 classes have a partner: car <- car'
    assert 'does not know pallet, crate' in second and "write 'pallet': ['pallets'] if it is the same" in second
    assert third == 'model.teacher.classes: 2 classes of the teacher are left out (pallets, sky)'
    assert len(ClassPairs.of('auto', 'ab', 'ab').describe()) == 1


@pytest.mark.parametrize(('option', 'student', 'teacher', 'message'), [
    ({'cra': ['car']}, ['car'], ['car'], "'cra' is no class of the student's: car.*car"),
    ({'car': ['cra']}, ['car'], ['car'], "'cra' is no class of the teacher's: car"),
    ({'a': ['*'], 'b': ['*']}, 'ab', 'cd', "only one class can take the rest.*'\\*'"),
    ('auto', ['dog'], ['cat'], r'no class of the student \(dog\) is one of the teacher \(cat\)'),
    ({'car': []}, ['car'], ['car'], 'no class of the student'),
    ('auto', ['a', 'A'], ['a'], "two classes named 'A'"),
])  # fmt: skip
def test_what_cannot_be_paired_is_refused(option, student, teacher, message):
    with pytest.raises(ValueError, match=message):
        ClassPairs.of(option, student, teacher)
    for form in ('all', ['car'], {'car': 'car'}, {'car': [1]}, 3):
        with pytest.raises(TypeError, match="classes must be 'auto', or a dict"):
            check_form(form, 'model.teacher.classes')


def test_methods_refuse_what_they_cannot_compare():
    pairs = ClassPairs.of('auto', ['car', 'dog'], ['car', 'cat'])
    check_groups('kd', pairs, ranks=False)
    with pytest.raises(ValueError, match=r"kd: one shared class cannot be compared.*\['\*'\]"):
        check_groups('kd', pairs, ranks=True)
    check_groups('kd', PAIRS, ranks=True)
    with pytest.raises(ValueError, match='dist compares all classes at once, and dog have no partner.*LogitKD'):
        check_complete('dist', pairs)
    check_complete('dist', ClassPairs.of({'car': ['car', 'cat']}, ['car'], ['car', 'cat']))
    with pytest.raises(ValueError, match='and cat have no partner on the other side'):
        check_complete('dist', ClassPairs.of('auto', ['car'], ['car', 'cat']))
