"""Values that are no numbers: the run stops before the step and says where they come from."""

import re
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook

from mmdistill_dense.registry import HOOKS
from tests import toys
from tests.engine.resumption import half_on_the_cpu
from tests.faults.tools import content, whole
from tests.pretrain import runs as pretraining


@HOOKS.register_module()
class Spoil(Hook):
    """Puts NaN into what is named, just before an iteration."""

    def __init__(self, kind, at):
        self.what, self.at = kind, at

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter not in self.at:
            return
        if self.what == 'picture':
            data_batch['inputs'][0] = data_batch['inputs'][0].float() * float('nan')
        elif self.what == 'weights':
            next(runner.model.parameters()).data.fill_(float('inf'))
        else:
            owner = toys.teacher_of(runner.model).network if self.what == 'teacher' else runner.model
            owner.decode_head.conv_seg.weight.data[0] = float('inf')


def pair(**distillers):
    return toys.model_config(toys.seg_net('fcn'), toys.seg_teacher('fcn'), dict(kd=dict(type='LogitKD')) | distillers)


def spoiled(kind, at=(2,)):
    return dict(custom_hooks=[dict(type='mmdistill_dense.Spoil', kind=kind, at=at)])


def sick(**options):
    return pair(sick=dict(type='Sick', **options))


def last_of(folder):
    """The name of the last checkpoint, which must be readable and finite."""
    whole(last := Path((folder / 'last_checkpoint').read_text()))
    return last.name


@pytest.fixture(scope='module')
def healthy(tmp_path_factory):
    """The folder of a run of four iterations in which nothing goes wrong."""
    folder = tmp_path_factory.mktemp('healthy')
    toys.train(folder, sick(), iters=4)
    return folder


def test_a_term_stops_the_run_before_the_step(tmp_path, healthy):
    runner = toys.make_runner(tmp_path, sick(at=[2], value=float('inf')), iters=4)
    text = 'Iteration 3: the loss is not finite, and the step was not taken. distill.sick.loss_sick is inf.'
    with pytest.raises(RuntimeError, match=re.escape(text)) as caught:
        runner.train()
    assert 'loss_kd' not in str(caught.value) and 'teacher gives' not in str(caught.value)
    expected = whole(tmp_path / 'iter_2.pth')  # the student is where the last step left it, statistics aside
    weights_before = {name: value for name, value in runner.model.named_parameters() if name in expected}
    assert weights_before and all(torch.equal(value, expected[name]) for name, value in weights_before.items())
    assert last_of(tmp_path) == 'iter_2.pth'
    toys.train(tmp_path, sick(), iters=4, resume=True)
    assert not toys.differing(content(tmp_path / 'iter_4.pth'), content(healthy / 'iter_4.pth'))


@pytest.mark.sample(2)
@pytest.mark.parametrize(('kind', 'words'), [
    ('teacher', r'distill\.kd\.loss_kd is (nan|inf).* model\.teacher gives values .* at decode_head\.conv_seg\.'),
    ('student', r'decode\.loss_ce is (nan|inf).* Weights are not finite since .*: decode_head\.conv_seg\.weight\.'),
    ('picture', r'decode\.loss_ce is nan.* The pictures themselves hold values that are not finite\. .*Pictures: '),
    ('alone', r'Iteration 3.*decode\.loss_ce is (nan|inf).* Weights are not finite since '),
])  # fmt: skip
def test_the_message_says_where_it_comes_from(tmp_path, kind, words):
    """A student alone is guarded as well."""
    with pytest.raises(RuntimeError, match=words) as caught:
        toys.train(tmp_path, toys.seg_net('fcn') if kind == 'alone' else pair(), iters=4, **spoiled(kind))
    assert ('Weights are not finite' in str(caught.value)) == (kind in ('student', 'alone'))
    assert last_of(tmp_path) == 'iter_2.pth'


def test_pretraining_is_guarded_as_well(tmp_path):
    config = pretraining.config(tmp_path, epochs=2, **spoiled('weights', [5]))
    words = r'Iteration 6: the loss is not finite.*distill\.pcd\.loss_pcd is nan.* since an earlier step: backbone\.'
    with pytest.raises(RuntimeError, match=words):
        toys.train(None, config)
    assert last_of(tmp_path) == 'epoch_1.pth'


def test_weights_that_are_no_numbers_are_not_saved(tmp_path):
    """A gradient may be none where the loss is one: the file before stays the last."""
    each_step = dict(default_hooks=dict(checkpoint=dict(interval=1)))
    with pytest.raises(RuntimeError, match=r'After iteration 3 the weights are not finite \(.*\), so no checkpoint'):
        toys.train(tmp_path, sick(gradient_at=[2]), iters=4, **each_step)
    assert sorted(path.name for path in tmp_path.glob('*.pth')) == ['iter_1.pth', 'iter_2.pth']
    assert last_of(tmp_path) == 'iter_2.pth'


def test_gradients_that_overflow_by_their_scale_are_no_fault(tmp_path):
    """The first steps of mixed precision, which its scaler leaves out while it looks for a scale."""
    half = dict(type='AmpOptimWrapper', dtype='bfloat16')
    large, small = (dict(optim_wrapper=dict(half, loss_scale=dict(init_scale=scale))) for scale in (2.0**127, 8.0))
    with half_on_the_cpu():
        runner = toys.train(tmp_path, pair(kd=dict(type='LogitKD', loss_weight=1e4)), iters=3, **large)
    assert runner.optim_wrapper.loss_scaler.get_scale() < 2.0**127 and runner.iter == 3
    with half_on_the_cpu(), pytest.raises(RuntimeError, match=r'Iteration 3.*distill\.sick\.loss_sick is nan'):
        toys.train(tmp_path / 'b', sick(at=[2]), iters=4, **small)
