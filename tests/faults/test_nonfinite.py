"""Values that are no numbers: the run stops before the step and says where they come from."""

from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS

from mmdistill_dense.engine import DistillHook
from mmdistill_dense.registry import HOOKS
from tests import toys
from tests.faults.tools import content, whole
from tests.pretrain import runs as pretraining

KD = dict(kd=dict(type='LogitKD'))
EVERY = dict(default_hooks=dict(checkpoint=dict(interval=1)))


@HOOKS.register_module()
class Spoil(Hook):
    """Puts NaN into what is named, just before an iteration."""

    def __init__(self, what, at):
        self.what, self.at = what, at

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter not in self.at:
            return
        model = runner.model
        if self.what == 'picture':
            data_batch['inputs'][0] = data_batch['inputs'][0].float() * float('nan')
        elif self.what == 'weights':
            next(model.parameters()).data.fill_(float('inf'))
        else:
            owner = toys.teacher_of(model).network if self.what == 'teacher' else model
            owner.decode_head.conv_seg.weight.data[0] = float('inf')


def pair(distillers=None, **options):
    return toys.model_config(toys.seg_net('fcn'), toys.seg_teacher('fcn'), distillers or KD, **options)


def spoiled(what, at=(2,)):
    return dict(custom_hooks=[dict(type='mmdistill_dense.Spoil', what=what, at=at)])


def sick(**options):
    return pair(dict(KD, sick=dict(type='Sick', **options)))


@pytest.fixture(scope='module')
def healthy(tmp_path_factory):
    """The folder of a run of four iterations in which nothing goes wrong."""
    folder = tmp_path_factory.mktemp('healthy')
    toys.train(folder, sick(), iters=4)
    return folder


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_a_term_stops_the_run_before_the_step_and_nothing_is_lost(tmp_path, healthy, value):
    runner = toys.make_runner(tmp_path, sick(at=[2], value=value), iters=4)
    with pytest.raises(RuntimeError) as caught:
        runner.train()
    words = str(caught.value)
    assert (
        f'Iteration 3: the loss is not finite, and the step was not taken. distill.sick.loss_sick is {value}.' in words
    )
    assert 'loss_kd' not in words and 'teacher gives' not in words
    expected = whole(tmp_path / 'iter_2.pth')  # the student is where the last step left it, statistics aside
    assert all(
        torch.equal(value, expected[name]) for name, value in runner.model.named_parameters() if name in expected
    )
    assert Path((tmp_path / 'last_checkpoint').read_text()).name == 'iter_2.pth'
    toys.train(tmp_path, sick(), iters=4, resume=True)
    assert not toys.differing(content(tmp_path / 'iter_4.pth'), content(healthy / 'iter_4.pth'))


@pytest.mark.parametrize(('what', 'words'), [
    ('teacher', r'distill\.kd\.loss_kd is (nan|inf).* model\.teacher gives values .* at decode_head\.conv_seg\.'),
    ('student', r'decode\.loss_ce is (nan|inf).* Weights are not finite since .*: decode_head\.conv_seg\.weight\.'),
    ('picture', r'decode\.loss_ce is nan.* The pictures themselves hold values that are not finite\. .*Pictures: '),
])  # fmt: skip
def test_the_message_says_where_it_comes_from(tmp_path, what, words):
    with pytest.raises(RuntimeError, match=words) as caught:
        toys.train(tmp_path, pair(), iters=4, **spoiled(what))
    assert ('Weights are not finite' in str(caught.value)) == (what == 'student')
    whole(tmp_path / 'iter_2.pth')


def test_a_student_alone_is_guarded_as_well(tmp_path):
    with pytest.raises(RuntimeError, match=r'Iteration 3.*decode\.loss_ce is (nan|inf)'):
        toys.train(tmp_path, toys.seg_net('fcn'), iters=4, **spoiled('student'))


def test_pretraining_is_guarded_as_well(tmp_path):
    config = pretraining.config(tmp_path, epochs=2, **spoiled('weights', [5]))
    words = r'Iteration 6: the loss is not finite.*distill\.pcd\.loss_pcd is nan.* since an earlier step: backbone\.'
    with pytest.raises(RuntimeError, match=words):
        toys.train(None, config)
    whole(tmp_path / 'epoch_1.pth')
    assert Path((tmp_path / 'last_checkpoint').read_text()).name == 'epoch_1.pth'


def test_a_detectors_lists_of_losses_are_named(tmp_path):
    model = toys.model_config(toys.det_net(), toys.det_teacher(), dict(sick=dict(type='Sick')))
    spoil = dict(type='mmdistill_dense.Spoil', what='picture', at=[1])
    with pytest.raises(RuntimeError, match=r'Iteration 2.*loss_cls is nan, loss_bbox is nan, distill\.sick\.loss_sick'):
        toys.train(tmp_path, toys.det_run_config(tmp_path, model, iters=2, custom_hooks=[spoil]))


def test_weights_that_are_no_numbers_are_not_saved(tmp_path):
    """A gradient may be none where the loss is one: the file before stays the last."""
    with pytest.raises(RuntimeError, match=r'After iteration 3 the weights are not finite \(.*\), so no checkpoint'):
        toys.train(tmp_path, sick(gradient_at=[2]), iters=4, **EVERY)
    assert sorted(path.name for path in tmp_path.glob('*.pth')) == ['iter_1.pth', 'iter_2.pth']
    assert Path((tmp_path / 'last_checkpoint').read_text()).name == 'iter_2.pth'
    whole(tmp_path / 'iter_2.pth')


@OPTIM_WRAPPERS.register_module()
class Scaled(OptimWrapper):
    """mmengine's wrapper for mixed precision, with a scaler that works on the CPU."""

    def __init__(self, scale, **kwargs):
        super().__init__(**kwargs)
        self.loss_scaler = torch.amp.GradScaler('cpu', init_scale=scale)

    def backward(self, loss, **kwargs):
        self.loss_scaler.scale(loss).backward(**kwargs)
        self._inner_count += 1

    def step(self, **kwargs):
        self.loss_scaler.step(self.optimizer, **kwargs)
        self.loss_scaler.update()


def test_gradients_that_overflow_by_their_scale_are_no_fault(tmp_path):
    """The first steps of mixed precision, which its scaler leaves out while it looks for a scale."""
    wrapper = dict(optim_wrapper=dict(type='Scaled', scale=2.0**127))
    runner = toys.train(tmp_path, pair(dict(kd=dict(type='LogitKD', loss_weight=1e4))), iters=3, **wrapper)
    assert runner.optim_wrapper.loss_scaler.get_scale() < 2.0**127 and runner.iter == 3
    with pytest.raises(RuntimeError, match=r'Iteration 3.*distill\.sick\.loss_sick is nan'):
        toys.train(tmp_path / 'b', sick(at=[2]), iters=4, **toys.merged(wrapper, dict(optim_wrapper=dict(scale=8.0))))


@pytest.mark.parametrize(
    ('name', 'said'), [('skip_nonfinite', 'has left: '), ('resume_change', "mean 'resume_changed'")]
)
def test_options_of_the_hook_are_known(name, said):
    with pytest.raises(TypeError, match=said):
        DistillHook(**{name: 1})
