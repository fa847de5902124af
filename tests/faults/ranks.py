"""Runs on two processes in which one has a loss that is no number, for tests/engine/test_distributed.py."""

from tests import toys
from tests.faults import tools  # noqa: F401  (registers Sick)

WRAPPER = dict(type='mmdistill_dense.DistillDDP', broadcast_buffers=False)


def blind(folder):
    """What a run says in which the pictures are normalised twice."""
    student = toys.seg_net('fcn', data_preprocessor=dict(mean=None, std=None))
    model = toys.model_config(student, toys.seg_teacher('fcn'))
    config = toys.run_config(folder, model, launcher='pytorch', model_wrapper_cfg=WRAPPER)
    step = dict(type='Normalize', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])
    config.train_dataloader.dataset.pipeline.insert(3, step)
    try:
        toys.make_runner(folder, config).train()
    except ValueError as error:
        return str(error)


def run(folder, at):
    """Run to the end or to the error; return the student and what was said."""
    sick = dict(sick=dict(type='Sick', at=at, rank=1))
    model = toys.model_config(toys.seg_net('fcn'), toys.seg_teacher('fcn'), sick)
    hooks = dict(checkpoint=dict(interval=1))
    options = dict(iters=4, launcher='pytorch', model_wrapper_cfg=WRAPPER, default_hooks=hooks)
    runner = toys.make_runner(folder, toys.run_config(folder, model, **options))
    words = ''
    try:
        runner.train()
    except RuntimeError as error:
        words = str(error)
    state = {name: value.detach().clone() for name, value in runner.model.module.named_parameters()}
    return dict(student=state, words=words)


def runs(folder):
    """A run that stops, and one that does not begin."""
    return dict(stopping=run(folder / 'stopping', [2]), blind=blind(folder / 'blind'))
