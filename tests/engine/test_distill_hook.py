"""``DistillHook``: what it draws, writes, restores and averages, and whose gradients it clips."""

import functools
import gc
import random
import shutil
import types
from contextlib import nullcontext
from unittest import mock

import numpy as np
import pytest
import torch
from mmengine.dataset import Compose
from mmengine.hooks import EMAHook, Hook
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, IterBasedTrainLoop, loops
from mmseg.models import EncoderDecoder
from mmseg.registry import MODELS
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from mmdistill_dense.config.resolve import load_model
from mmdistill_dense.distillers import FeatureDistiller
from mmdistill_dense.engine.distill_hook import (
    DistillerState,
    SeededStreams,
    _fit_optimizer,
    _SeededPipelines,
    average_the_student,
    place_distillers,
)
from mmdistill_dense.engine.loss_guard import check_saved
from mmdistill_dense.engine.resume import comparable, describe_identity, differ, identity, same_teachers
from mmdistill_dense.registry import DISTILLERS, HOOKS
from mmdistill_dense.utils.reproducible import SeededBatches, fork_rng, init_worker
from tests import toys
from tests.engine import resumption

KD = dict(type='LogitKD')
MIMIC = dict(type='MaskedMimic')


def pair(distillers=None, teacher=None, **student):
    distillers = dict(kd=KD, mimic=MIMIC) if distillers is None else distillers
    return toys.model_config(toys.seg_net('fcn', **student), teacher or toys.seg_teacher('fcn'), distillers)


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    work_dir = tmp_path_factory.mktemp('finished')
    toys.train(work_dir, pair(), iters=2)
    return work_dir


def resume(path, work_dir, model, iters=4, **changes):
    return toys.train(work_dir, model, iters=iters, resume=True, load_from=str(path), **changes)


def streams(epochs, accumulated=1, **options):
    """What a run's random streams make of a loader, as when training starts."""
    loader = DataLoader(toys.ToyDetDataset(2), num_workers=1, **options)
    loop = mock.Mock(spec=EpochBasedTrainLoop if epochs else IterBasedTrainLoop, dataloader_iterator=iter(()))
    wrapper = OptimWrapper(torch.optim.SGD([nn.Parameter(torch.ones(1))], 1.0), accumulative_counts=accumulated)
    wrapper.initialize_count_status(nn.Linear(1, 1), 3, 99)
    parts = dict(train_dataloader=loader, train_loop=loop, optim_wrapper=wrapper)
    runner = types.SimpleNamespace(**parts, model=nn.Linear(1, 1), cfg={}, seed=5, epoch=0, _resume=False)
    hook = SeededStreams()
    with fork_rng():
        hook.before_train(runner)
        hook.before_train_epoch(runner)
    return runner


def test_batches_without_indices_come_anew():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(range(8))

    loader = DataLoader(Stream(), 2)
    loop = mock.Mock(spec=IterBasedTrainLoop, dataloader_iterator=loops._InfiniteDataloaderIterator(loader))
    parts = dict(train_dataloader=loader, train_loop=loop, model=nn.Linear(1, 1))
    runner = types.SimpleNamespace(**parts, cfg={}, seed=5, _resume=False)
    iterator = iter(loader)
    next(iterator)
    for batches, first in ((loop.dataloader_iterator, [0, 1]), (None, [0, 1]), (iterator, [2, 3])):
        loop.dataloader_iterator = loop.dataloader_iterator if batches is None else batches
        with fork_rng():
            SeededStreams().before_train(runner)
            assert next(loop.dataloader_iterator).tolist() == first


def test_a_step_that_no_seed_reaches_is_named_at_start():
    data = types.SimpleNamespace(pipeline=[types.SimpleNamespace(dice=random.SystemRandom())])
    runner = mock.Mock(train_dataloader=mock.Mock(dataset=data, num_workers=0), train_loop=mock.Mock(), _resume=False)
    SeededStreams().before_train(runner)
    ((words,), _) = runner.logger.warning.call_args
    assert words.startswith('train_dataloader: SystemRandom draws random numbers that no seed reaches')


class Mixing:
    """A collate function that draws."""

    def __init__(self):
        self.rng = np.random.default_rng()

    def __call__(self, batch):
        return self.rng.random()


@pytest.mark.parametrize(('workers', 'names'), [(0, []), (1, ['collate_fn'])])
def test_a_collate_function_is_seeded_or_named(workers, names):
    """Each batch seeds it in this process; in workers nothing shows it."""
    draws = []
    for _ in range(2):
        loader = DataLoader(toys.ToyDetDataset(2), num_workers=workers, collate_fn=Mixing())
        loop = mock.Mock(spec=IterBasedTrainLoop, dataloader_iterator=iter(()), iter=0)
        runner = mock.Mock(train_dataloader=loader, train_loop=loop, seed=5, _resume=False, model=nn.Linear(1, 1))
        with fork_rng():
            SeededStreams().before_train(runner)
            draws.append(next(loop.dataloader_iterator) if not workers else 0)
        lines = [call.args[0] for call in runner.logger.warning.call_args_list]
        assert [words.split()[1] for words in lines] == names
    assert draws[0] == draws[1]


def test_a_pipeline_that_a_hook_puts_in_place_is_seeded(tmp_path):
    """mmdet's PipelineSwitchHook does it at the begin of an epoch, after DistillHook."""
    runner = mock.Mock(train_dataloader=DataLoader(Mixing()), seed=5, epoch=1)
    draws = []
    for _ in range(2):
        runner.train_dataloader.dataset.pipeline = Mixing()
        _SeededPipelines().before_train_epoch(runner)
        draws.append(runner.train_dataloader.dataset.pipeline(None))
    assert draws[0] == draws[1]
    run = toys.make_runner(None, toys.run_config(tmp_path, toys.seg_net('fcn'), epochs=1))
    run._train_loop = run.build_train_loop(run._train_loop)
    SeededStreams().before_run(run)
    assert isinstance(run.hooks[-1], _SeededPipelines), 'the last one to be called'


def test_a_preprocessors_generator_is_seeded_for_each_step():
    preprocessor = types.SimpleNamespace(rng=np.random.default_rng(), data=[])
    model = types.SimpleNamespace(data_preprocessor=preprocessor)
    runner = mock.Mock(model=model, train_dataloader=DataLoader([1]), seed=5, _resume=False)
    hook, draws = SeededStreams(), []
    hook.before_train(runner)
    for runner.iter in (0, 1, 1):
        with fork_rng():
            hook.before_train_iter(runner, 0)
        draws.append(preprocessor.rng.random())
    assert draws[0] != draws[1] == draws[2]


@pytest.mark.parametrize('epochs', [True, False])
def test_a_users_worker_init_fn_stays(epochs):
    own_init = functools.partial(lambda worker_id: None)  # as mmengine's runner builds it
    runner = streams(epochs, worker_init_fn=own_init)
    assert runner.train_dataloader.worker_init_fn is own_init
    assert not isinstance(runner.train_loop.dataloader_iterator, SeededBatches)
    assert 'train_dataloader.worker_init_fn is your own' in told_on_resume(runner)
    words = r'train_dataloader\.persistent_workers=True.*by epochs.*False'
    with pytest.raises(ValueError, match=words) if epochs else nullcontext():
        usual = streams(epochs, persistent_workers=True)
        assert isinstance(usual.train_loop.dataloader_iterator, SeededBatches)
    assert streams(True).train_dataloader.worker_init_fn.func is init_worker


def told_on_resume(runner):
    """The warnings of a run that goes on behind three steps."""
    runner.iter, runner._resume, runner.logger = 3, True, mock.Mock()
    with fork_rng():
        SeededStreams().before_train_iter(runner, 0)
    return ' '.join(call.args[0] for call in runner.logger.warning.call_args_list)


@pytest.mark.parametrize(('epochs', 'workers', 'is_kept'), [(True, 0, True), (True, 1, False), (False, 1, True)])
def test_what_a_resumed_run_cannot_repeat_is_told(epochs, workers, is_kept):
    """Pictures that a step keeps, but where workers begin without any at each epoch; gradients that were not saved."""
    steps = [dict(type='RandomApply', transforms=[dict(type='mmdet.CachedMosaic', img_scale=(64, 64))])]
    inner = types.SimpleNamespace(pipeline=Compose(steps), datasets=None)
    joined = types.SimpleNamespace(datasets=[inner, types.SimpleNamespace(pipeline=len)])
    runner = streams(epochs)
    runner.train_dataloader = types.SimpleNamespace(worker_init_fn=None, num_workers=workers, dataset=joined)
    runner.train_loop.dataloader_iterator = types.SimpleNamespace(position=4)
    assert ('CachedMosaic kept pictures of earlier batches' in told_on_resume(runner)) == is_kept
    runner.train_loop.fast_forward_on_resume = True
    assert 'train_cfg.fast_forward_on_resume=True' in told_on_resume(runner)
    assert 'accumulative_counts: the gradients that waited' in told_on_resume(streams(True, accumulated=2))
    assert told_on_resume(streams(True, accumulated=3)) == ''


def test_each_step_has_streams_of_its_own():
    runner, drawn = streams(True), []
    for runner.epoch, runner.iter in ((0, 0), (1, 0), (1, 1)):
        with fork_rng():
            SeededStreams().before_train_epoch(runner)
            SeededStreams().before_train_iter(runner, 0)
            drawn.append((np.random.rand(), float(torch.rand(())), runner.train_dataloader.worker_init_fn.args[2]))
    assert [epoch for *_, epoch in drawn] == [0, 1, 1], 'what workers are seeded with'
    assert drawn[0][0] != drawn[1][0] == drawn[2][0] and drawn[0][1] == drawn[1][1] != drawn[2][1]


class Diary(FeatureDistiller):
    """Notes where the run stands."""

    notes: list = []

    def prepare(self, runner, teacher):
        self.notes.append(('prepare', runner.iter, teacher.network is not None, teacher.key))

    def loss(self, student, teacher, level):
        self.notes.append((self.state.iteration, self.state.max_iters, self.state.seed, self.state.rank))
        return 0.0 * student.mean()


def test_distillers_know_their_place_in_the_run(tmp_path):
    """Each with the teacher that it is used with."""
    DISTILLERS.register_module(module=Diary, force=True)
    Diary.notes.clear()
    diary = dict(type='Diary', student_tap='backbone[3]', align='conv', teacher='b')
    distillers = dict(kd=dict(KD, teacher='a'), diary=diary)
    model = pair(distillers, dict(a=toys.seg_teacher('fcn'), b=toys.seg_teacher('pspnet')))
    toys.train(tmp_path, model, iters=3)
    assert Diary.notes == [('prepare', 0, True, 'model.teacher.b'), *((i, 3, 5, 0) for i in range(3))]
    Diary.notes.clear()
    toys.train(tmp_path, model, epochs=1)
    assert Diary.notes[1:] == [(i, 4, 5, 0) for i in range(4)]


def test_a_receipt_is_written(finished):
    content = torch.load(finished / 'iter_2.pth', weights_only=False)
    receipt = content['meta']['distill']
    (teacher,) = receipt['teachers'].values()
    assert teacher['file'] == 'fcn_16.pth' and teacher['ignored'] == 0 < teacher['matched']
    scores = 'decode_head.conv_seg'
    assert receipt['distillers']['kd'] == dict(type='LogitKD', tensors={}, taps=[[scores, scores]], teacher='teacher')
    assert receipt['distillers']['mimic']['type'] == 'MaskedMimic'
    assert receipt['distillers']['mimic']['tensors']['aligns.0.weight'] == [128, 64, 1, 1]
    assert sorted(content['distillers']) == [
        'mimic.aligns.0.bias', 'mimic.aligns.0.weight', 'mimic.parts.0.bias', 'mimic.parts.0.weight',
    ]  # fmt: skip
    assert not any('distillers' in name or 'teacher' in name for name in content['state_dict'])


def test_best_checkpoints_are_students_alone(tmp_path):
    """mmengine would go on with a new momentum and the first learning rate."""
    changes = dict(default_hooks=dict(checkpoint=dict(save_best='mIoU')), train_cfg=dict(val_interval=1))
    toys.train(tmp_path, pair(), iters=1, **changes)
    (path,) = tmp_path.glob('best_mIoU*.pth')
    content = torch.load(path, weights_only=False)
    assert 'distillers' not in content and 'optimizer' not in content and content['meta']['distill']
    toys.build_plain(toys.seg_net('fcn')).load_state_dict(content['state_dict'], strict=True)
    with pytest.raises(ValueError, match=r'no optimizer.*save_best.*iter_\*\.pth.*load_from'):
        resume(path, tmp_path / 'b', toys.seg_net('fcn'))


@HOOKS.register_module()
class Peek(Hook):
    """Keeps the distillers' state as training begins."""

    priority = 'LOWEST'
    seen: dict = {}

    def before_train(self, runner):
        Peek.seen = toys.student_state(runner.model.distillers)


@pytest.fixture(scope='module')
def other_teacher(tmp_path_factory):
    """A teacher like the usual one with other numbers."""
    path = tmp_path_factory.mktemp('other') / 'other.pth'
    torch.save(dict(state_dict=toys.build_plain(toys.seg_net('fcn', 16), seed=99).state_dict()), path)
    return toys.seg_net('fcn', 16, checkpoint=str(path))


def identity_of(teacher=None, **distillers):
    return identity(toys.ready(toys.build(pair(distillers, teacher))))


def test_another_run_is_told_apart(finished, other_teacher, tmp_path):
    """A moved teacher and other options are the same run: a config's path is absolute with ``{{ fileDirname }}``."""
    text = torch.load(finished / 'iter_2.pth', weights_only=False)['meta']['distill']
    saved = describe_identity(text)
    assert saved.startswith('teacher mmseg::fcn') and 'mimic: MaskedMimic (4 tensors; taps backbone[3])' in saved
    for current in (
        identity_of(other_teacher, kd=KD, mimic=MIMIC),
        identity_of(kd=KD),
        identity_of(kd=KD, other=MIMIC),
        identity_of(kd=dict(type='AfDCD', pool_size=0), mimic=MIMIC),
        identity_of(kd=KD, mimic=dict(MIMIC, student_tap='backbone[1]')),
    ):
        words = describe_identity(current)
        assert differ(text, current) and saved != words and ('other.pth' in words or 'fcn_16.pth' in words), words
    shutil.copy(toys.teacher_file('fcn'), tmp_path / 'moved.pth')
    moved = toys.seg_net('fcn', 16, checkpoint=str(tmp_path / 'moved.pth'))
    again = identity_of(moved, kd=dict(KD, temperature=7.0), mimic=dict(MIMIC, loss_weight=7.0))
    assert not differ(text, again) and same_teachers(text, again) == {'kd', 'mimic'}
    assert not same_teachers(text, identity_of(other_teacher, kd=KD, mimic=MIMIC))
    first_folder, second_folder, other = (
        dict(teachers=dict(t=dict(config=f'{folder}/t.py', file='t.pth', sha256=sha, matched=1)), distillers={})
        for folder, sha in (('a', '1f'), ('b', '1f'), ('a', '2f'))
    )
    assert comparable(first_folder) == comparable(second_folder) != comparable(other)


def changed(file, folder, model, **changes):
    return resume(file, folder, model, default_hooks=dict(distill=dict(resume_changed=True)), **changes)


def test_resume_with_another_teacher_on_request(finished, tmp_path, other_teacher):
    """What was there is restored, with its optimizer state; what is new starts anew."""
    stored = torch.load(finished / 'iter_2.pth', weights_only=False)
    more = pair(dict(kd=KD, mimic=MIMIC, more=dict(MIMIC, student_tap='backbone[1]')), other_teacher)
    peek = dict(custom_hooks=[dict(type='mmdistill_dense.Peek')])
    runner = changed(finished / 'iter_2.pth', tmp_path / 'a', more, **peek)
    assert runner.iter == 4
    restored = {name: value for name, value in Peek.seen.items() if name.startswith('mimic.')}
    assert len(Peek.seen) == 8 and not toys.differing(restored, stored['distillers'])
    again = torch.load(tmp_path / 'a' / 'iter_4.pth', weights_only=False)
    (teacher,) = again['meta']['distill']['teachers'].values()
    assert teacher['file'] == 'other.pth', 'the next receipt is the new one'
    count = len(list(runner.model.parameters()))
    held_params, before = (checkpoint['optimizer']['param_groups'][0]['params'] for checkpoint in (again, stored))
    assert len(held_params) == count == len(before) + 4
    fewer = changed(finished / 'iter_2.pth', tmp_path / 'b', pair(dict(kd=KD)))
    assert fewer.iter == 4 and not list(fewer.model.distillers.parameters())


def changed_fact(facts, key):
    """The facts of a distiller in a checkpoint, one of which is another."""
    shapes = facts['tensors'] or {'weight': []}
    longer = {**facts['tensors'], min(shapes): [1, *shapes[min(shapes)]]}
    other_facts = dict(type='OtherMethod', taps=[['backbone[0]', 'backbone[0]']], tensors=longer, teacher='other')
    return {**facts, key: other_facts[key]}


@pytest.mark.sample(3)
@pytest.mark.parametrize('key', ['type', 'taps', 'tensors', 'teacher', None])
def test_state_goes_to_no_other_distiller_of_its_name(key):
    """Adapters, queues, pointers and means of each method; older files hold no taps, and measured weights.

    With another teacher, what was gathered begins anew alone.
    """
    methods = resumption.KEEPING | dict(mimic=MIMIC)
    model = toys.ready(toys.build(pair(methods)))
    fresh = {name: tensor.clone() for name, tensor in model.distillers.state_dict().items()}
    saved = {name: torch.full_like(tensor, 3) for name, tensor in fresh.items()}
    wrapper, loop = OptimWrapper(torch.optim.SGD(model.parameters(), 0.1)), mock.Mock(spec=IterBasedTrainLoop)
    state = dict(model=model, _resume=True, _train_loop=loop, optim_wrapper=wrapper, cfg={}, max_iters=100)
    runner = types.SimpleNamespace(**state, logger=mock.Mock())
    facts_now = identity(model)
    for changed_name in methods if key else [None]:
        distillers = {name: changed_fact(facts, key) if name == changed_name else facts
                      for name, facts in facts_now['distillers'].items()}  # fmt: skip
        for facts in [] if key else distillers.values():
            del facts['taps'], facts['teacher']
        saved_facts = dict(facts_now, distillers=distillers, earlier={})
        checkpoint = dict(meta=dict(distill=saved_facts), distillers=saved)
        checkpoint |= dict(balance=dict(mimic=dict(tries=[[0, 8.0, 2.0]], unit=4.0))) if key is None else {}
        model.distillers.load_state_dict(fresh)
        DistillerState(resume_changed=True).after_load_checkpoint(runner, checkpoint)
        restored = {*methods} - {changed_name}
        trained = {name for name, _ in model.distillers.named_parameters()}
        on = trained if key == 'teacher' else set()
        expected = {
            name: (saved if name in on or name.partition('.')[0] in restored else fresh)[name] for name in fresh
        }
        assert not toys.differing(model.distillers.state_dict(), expected), changed_name
        warnings = [text for (text,), _ in runner.logger.warning.call_args_list]
        gathered = key == 'teacher' and any(name.startswith(f'{changed_name}.') for name in fresh.keys() - trained)
        assert len([text for text in warnings if f'teachers of {changed_name}' in text]) == gathered
        measured = 'The checkpoint has measured weights of mimic. balance has left: set loss_weight; '
        assert [text.startswith(measured) for text in warnings] == [True] * (key is None) or key


def test_a_control_resumes_as_a_distilled_run_on_request(tmp_path):
    """All distillers are new then."""
    toys.train(tmp_path / 'a', toys.seg_net('fcn'), iters=2)
    file = tmp_path / 'a' / 'iter_2.pth'
    content = torch.load(file, weights_only=False)
    assert 'distillers' not in content and 'distill' not in content['meta']
    words = '(?s)in teachers, distillers.*checkpoint: no distillation\n.*this run:   teacher mmseg::fcn.*load_from'
    with pytest.raises(ValueError, match=words):
        resume(file, tmp_path / 'b', pair())
    assert changed(file, tmp_path / 'b', pair()).iter == 4
    with pytest.raises(ValueError, match='(?s)this run:   no distillation.*resume_changed=True'):
        resume(tmp_path / 'b' / 'iter_4.pth', tmp_path / 'c', toys.seg_net('fcn'))


def test_new_distillers_get_no_optimizer_state_of_others(tmp_path):
    """Which of several groups is theirs cannot be told."""
    model = nn.ModuleDict(dict(student=nn.Linear(2, 2), distillers=nn.ModuleDict(dict(new=nn.Linear(2, 3)))))
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    saved = dict(param_groups=[dict(params=[0, 1, 2])], state={index: {} for index in range(3)})
    _fit_optimizer(saved, types.SimpleNamespace(optim_wrapper=wrapper), model)
    assert saved == dict(param_groups=[dict(params=[0, 1, 2, 3])], state={0: {}, 1: {}})
    groups = dict(optim_wrapper=dict(paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=0.1)))))
    toys.train(tmp_path / 'a', pair(dict(kd=KD)), iters=2, **groups)
    with pytest.raises(ValueError, match='several parameter groups.*load_from'):
        changed(tmp_path / 'a' / 'iter_2.pth', tmp_path / 'b', pair(), **groups)


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class BodyAndHead:
    """An optimizer for the head and one for the rest, with or without the distillers."""

    def __init__(self, optim_wrapper_cfg, paramwise_cfg=None):
        self.left_out, self.clip_grad = optim_wrapper_cfg['left_out'], optim_wrapper_cfg.get('clip_grad')

    def __call__(self, model):
        names = [name for name, _ in model.named_parameters() if not name.startswith(self.left_out)]
        parts = [[name for name in names if name.startswith('decode_head') == head] for head in (False, True)]
        parameters = dict(model.named_parameters())
        sgd = [torch.optim.SGD([parameters[name] for name in part], lr=0.01) for part in parts]
        return OptimWrapperDict(body=OptimWrapper(sgd[0], clip_grad=self.clip_grad), head=OptimWrapper(sgd[1]))


@MODELS.register_module()
class StepsTwice(EncoderDecoder):
    """Trains with both."""

    poisoned = False

    def train_step(self, data, optim_wrapper):
        loss, log_vars = self.parse_losses(self._run_forward(self.data_preprocessor(data, True), mode='loss'))
        optim_wrapper['body'].backward(loss * float('nan') if self.poisoned else loss, retain_graph=True)
        optim_wrapper['head'].backward(0 * log_vars['loss'])  # what goes to the log may be trained on too
        for wrapper in optim_wrapper.values():
            wrapper.step()
            wrapper.zero_grad()
        return log_vars


def of_two(tmp_path, left_out='nothing', **changes):
    student = load_model(toys.seg_net('fcn'), 'model').model.to_dict()
    model = toys.model_config(dict(student, type='StepsTwice'), toys.seg_teacher('fcn'), dict(mimic=MIMIC))
    config = toys.run_config(tmp_path, model, iters=2, **changes)
    config.optim_wrapper = dict(constructor='BodyAndHead', left_out=left_out)
    return config


def test_a_bad_loss_stops_a_run_of_several_optimizers(tmp_path, monkeypatch):
    """And parameters of distillers that none holds: the student would follow a random projection."""
    model = toys.train(None, of_two(tmp_path / 'a')).model
    assert all(bool(value.isfinite().all()) for value in model.state_dict().values())
    assert not {'train_step', 'parse_losses'} & {*vars(model)}
    monkeypatch.setattr(StepsTwice, 'poisoned', True)
    with pytest.raises(RuntimeError, match='Iteration 1: the loss is not finite, and the step was not taken'):
        toys.train(None, of_two(tmp_path / 'b'))
    with pytest.raises(ValueError, match=r'leaves out parameters of distillers: mimic\.aligns\.0\.weight'):
        toys.train(None, of_two(tmp_path / 'c', left_out='distillers'))


def test_limits_hold_with_several_optimizers(tmp_path):
    """Each distiller is clipped by its own limit, and the user's clipping leaves it alone."""
    config = of_two(tmp_path)
    config.optim_wrapper.clip_grad = dict(max_norm=1e-2)
    limited = dict(MIMIC, clip_max_norm=1e-3, loss_weight=100.0)
    config.model.distillers = dict(mimic=limited, kd=KD)
    runner, norms = toys.make_runner(tmp_path, config), []

    class Watch(Hook):
        def before_train(self, runner):
            runner.optim_wrapper['body'].optimizer.register_step_post_hook(self.note)

        def note(self, *_):
            model, body = runner.model, runner.optim_wrapper['body']
            ids = {id(parameter) for parameter in model.distillers.parameters()}
            params = body.param_groups[0]['params']
            parts = [[p for p in params if (id(p) in ids) == side] for side in (True, False)]
            norms.append([float(nn.utils.get_total_norm([p.grad for p in part])) for part in parts])

    runner.register_hook(Watch(), priority='VERY_HIGH')
    runner.train()
    assert norms == [[pytest.approx(1e-3, rel=1e-2), pytest.approx(1e-2, rel=1e-2)]] * 2


def test_weights_may_be_infinite_where_they_began_so():
    model = nn.Module()
    model.register_buffer('mask', torch.tensor([0.0, -torch.inf]))
    check_saved(dict(state_dict=model.state_dict(), meta=dict(iter=1)), model)
    for name, value in (('mask', torch.nan), ('weight', torch.inf)):
        for part in ('state_dict', 'distillers'):
            with pytest.raises(RuntimeError, match=f'the weights are not finite .{name}'):
                check_saved({part: {name: torch.tensor(value)}, 'meta': dict(iter=1)}, model)


@HOOKS.register_module()
class Census(Hook):
    """Counts the tensors that are alive after a step."""

    priority = 'LOWEST'
    seen: list = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        del data_batch, outputs
        gc.collect()
        self.seen.append(sum(issubclass(type(tensor), torch.Tensor) for tensor in gc.get_objects()))


@pytest.mark.soak
def test_a_step_leaves_no_tensor_behind(tmp_path):
    """What grows is mmengine's history of the logged numbers, 16 bytes for each and step."""
    tap = dict(student_tap='backbone[3]')
    three = dict(
        afdcd=dict(type='AfDCD', **tap),
        maskd=dict(type='MasKD', num_tokens=4, learn=dict(max_iters=2), **tap),
        pcd=dict(type='PCD', queue_size=8, **tap),
    )
    Census.seen.clear()
    toys.train(tmp_path, pair(three), iters=16, custom_hooks=[dict(type='mmdistill_dense.Census')])
    assert len(set(Census.seen[8:])) == 1, Census.seen


# Averages of the weights


@pytest.fixture
def model():
    return toys.distilled(student=toys.seg_net('fcn'), distillers=dict(mimic=dict(type='MaskedMimic')))


def averaging(model, update_buffers):
    """A runner's stand-in with an ``EMAHook``, as it is when training starts."""
    hook = EMAHook(momentum=0.5, update_buffers=update_buffers)
    runner = types.SimpleNamespace(model=model, hooks=[hook], iter=0)
    hook.before_run(runner)
    average_the_student(runner)
    return runner, hook


@pytest.mark.parametrize('update_buffers', [False, True])
def test_an_average_is_of_the_student_alone(model, update_buffers):
    runner, hook = averaging(model, update_buffers)
    held_names = {*dict(hook.ema_model.module.named_parameters()), *dict(hook.ema_model.module.named_buffers())}
    assert not any(name.startswith('distillers') for name in [*held_names, *hook.ema_model.avg_parameters])
    assert len(list(model.distillers.parameters())) == 4, 'the model itself keeps them'

    plain = toys.build_plain(toys.seg_net('fcn'))
    plain.load_state_dict(model.state_dict())
    reference = EMAHook(momentum=0.5, update_buffers=update_buffers)
    reference.before_run(types.SimpleNamespace(model=plain))
    for iteration in range(3):
        runner.iter = iteration
        for network, of in ((model, hook), (plain, reference)):
            torch.manual_seed(iteration)
            with torch.no_grad():
                for value in network.state_dict().values():
                    value.add_(torch.randn(value.shape).to(value.dtype))
            of.after_train_iter(runner, iteration)
    state, expected = hook.ema_model.state_dict(), reference.ema_model.state_dict()
    assert not toys.differing(state, expected), 'to the bit what the plain student has'

    trained, distillers_before = toys.student_state(model), toys.student_state(model.distillers)
    hook.before_val_epoch(runner)
    reference.before_val_epoch(runner)
    assert not toys.differing(model.state_dict(), plain.state_dict()) and toys.differing(model.state_dict(), trained)
    assert not toys.differing(model.distillers.state_dict(), distillers_before)
    hook.after_val_epoch(runner)
    assert not toys.differing(model.state_dict(), trained)

    average_the_student(runner)  # twice is once
    hook.after_train_iter(runner, 0)
    other = types.SimpleNamespace(ema_model=types.SimpleNamespace(module=types.SimpleNamespace(distillers=1)))
    average_the_student(types.SimpleNamespace(hooks=[other, types.SimpleNamespace(), EMAHook()]))
    assert other.ema_model.module.distillers == 1, 'hooks of other kinds are left alone'


def test_distillers_lie_on_the_device_where_they_train(model):
    model.backbone.to('meta')
    for loop, device in ((dict(type='IterBasedTrainLoop'), 'cpu'), (None, 'cpu'), (mock.Mock(BaseLoop), 'meta')):
        place_distillers(types.SimpleNamespace(_train_loop=loop), model)
        assert {value.device.type for value in model.distillers.state_dict().values()} == {device}
