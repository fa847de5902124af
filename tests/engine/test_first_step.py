"""A run stops in its first step if a teacher sees or gives what cannot teach."""

from pathlib import Path
from unittest import mock

import pytest
import torch
from mmcv.transforms import TRANSFORMS, BaseTransform

from mmdistill_dense.apps.check import Options, check_config
from mmdistill_dense.distillers.maskd.learning import TokenLearner
from mmdistill_dense.distillers.schedule import Schedule
from mmdistill_dense.networks.inputs import Look
from tests import toys
from tests.distillers.maskd.tokens import seg_model

NORMALIZE = dict(type='Normalize', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)
REFUSED = r"model\.teacher: mean and std of its .*train_dataloader\.dataset has \{'type': 'Normalize'"


@TRANSFORMS.register_module()
class Blacken(BaseTransform):
    """Pictures as at night."""

    def transform(self, results):
        results['img'][:] = 0
        return results


def twice_normalised(folder, model=None, **changes):
    """A run whose pipeline normalises as well; the student's data_preprocessor does not."""
    student = toys.seg_net('fcn', data_preprocessor=dict(mean=None, std=None, bgr_to_rgb=False))
    config = toys.run_config(folder, model or toys.model_config(student, toys.seg_teacher('fcn')), **changes)
    config.train_dataloader.dataset.pipeline.insert(3, NORMALIZE)
    return config


def damaged(folder):
    """A teacher's file with a variance so large that its last maps are constant."""
    content = torch.load(toys.teacher_file('fcn'), weights_only=True)
    for name in content['state_dict']:
        if name.endswith('running_var'):
            content['state_dict'][name].fill_(1e30)
    torch.save(content, folder / 'damaged.pth')
    return toys.seg_net('fcn', 16, checkpoint=str(folder / 'damaged.pth'))


def test_a_schedule_is_checked_against_the_length_of_the_run(tmp_path):
    kd = dict(type='LogitKD', schedule=dict(warmup=1000))
    runner = toys.train(
        tmp_path,
        toys.model_config(toys.seg_net('fcn'), toys.seg_teacher('fcn'), dict(kd=kd)),
        iters=1,
        log_level='WARNING',
    )
    log = next(tmp_path.rglob('*.log')).read_text()
    assert 'model.distillers.kd.schedule: warmup is iteration 1000, but the weight ends at iteration 1 of 1' in log
    runner.model.distillers.kd.schedule = Schedule(ramp_down=(1, 0.5))
    with pytest.raises(ValueError, match=r'model\.distillers\.kd\.schedule\.ramp_down=\(1, 0\.5\) begins'):
        runner.call_hook('before_run')


def test_pictures_that_are_normalised_twice(tmp_path):
    config = twice_normalised(tmp_path)
    runner = toys.make_runner(tmp_path, config)
    with pytest.raises(ValueError, match=REFUSED):
        runner.train()
    assert runner.iter == 0 and not list(tmp_path.glob('*.pth'))
    assert not runner.optim_wrapper.optimizer.state, 'no step was taken'
    report = check_config(config, Options(val=0, cost=False))
    assert report.exit_code() == 2 and 'has {' in report.findings[-1].message, report.findings


def test_maps_that_do_not_vary(tmp_path):
    student = toys.seg_net('fcn')
    model = toys.model_config(student, damaged(tmp_path), dict(fit=dict(type='FitNet', student_tap='backbone[3]')))
    with pytest.raises(ValueError, match=r'model\.teacher: its maps at backbone\[3\] are the same.*running_var'):
        toys.train(tmp_path, model, iters=2)
    report = check_config(toys.run_config(tmp_path, model), Options(val=0, cost=False))
    assert 'its maps at backbone[3] are the same' in report.findings[-1].message


def test_only_the_first_step_looks_and_that_of_a_resumed_run(tmp_path):
    model = toys.model_config(toys.seg_net('fcn'), toys.seg_teacher('fcn'))
    with mock.patch.object(Look, 'at', side_effect=Look.at) as looked:
        runner = toys.train(tmp_path, model, iters=2)
    assert looked.call_count == 1 and toys.teacher_of(runner.model).looks is None
    assert not toys.hooks_left(runner.model)
    config = toys.run_config(tmp_path, model, iters=4, resume=True)
    config.train_dataloader.dataset.pipeline.insert(3, NORMALIZE)
    with pytest.raises(ValueError, match=REFUSED):
        toys.train(tmp_path, config)
    assert (tmp_path / 'last_checkpoint').read_text().endswith('iter_2.pth')


def test_black_pictures_go_on(tmp_path):
    taps = dict(fit=dict(type='FitNet', student_tap='backbone[3]'), kd=dict(type='LogitKD'))
    model = toys.model_config(toys.seg_net('fcn'), toys.seg_teacher('fcn'), taps)
    config = toys.run_config(tmp_path, model, iters=1)
    config.train_dataloader.dataset.pipeline.insert(3, dict(type='Blacken'))
    with mock.patch.object(Look, 'at', side_effect=Look.at) as looked:
        toys.train(tmp_path, config)
    assert looked.call_count == 1 and not looked.call_args.args[0].std((0, 2, 3)).any()


def test_pictures_without_labels(tmp_path: Path):
    """Their pipeline is another one."""
    load, pack = dict(type='LoadImageFromFile'), dict(type='PackSegInputs')
    more = dict(data_root=toys.picture_folder(), pipeline=[load, NORMALIZE, pack])
    model = toys.model_config(toys.seg_net('fcn'), toys.seg_teacher('fcn'), unlabelled=more)
    with pytest.raises(ValueError, match=r'model\.teacher: mean and std of its'):
        toys.train(tmp_path, model, iters=2)


def test_tokens_are_not_learned_on_such_pictures(tmp_path):
    model = seg_model()
    model['student'] = toys.merged(model['student'], dict(data_preprocessor=dict(mean=None, std=None)))
    learning = mock.patch.object(TokenLearner, 'step', side_effect=AssertionError('learned'))
    with pytest.raises(ValueError, match=REFUSED), learning:
        toys.train(tmp_path, twice_normalised(tmp_path, model))
