"""An interrupted run ends in the same bits as an uninterrupted one; tests/kill kills real processes."""

import itertools
import json
import logging
import shutil
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import EarlyStoppingHook, Hook
from mmengine.optim import OptimWrapper
from mmengine.registry import LOOPS, PARAM_SCHEDULERS
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, FlexibleRunner, IterBasedTrainLoop, ValLoop
from torch.utils.data import DataLoader

from mmdistill_dense.config import local_code
from mmdistill_dense.engine import resume
from mmdistill_dense.engine.resume import Counters, ResumeFile, check_rates, tell_changes
from mmdistill_dense.engine.work_folder import latest_checkpoint
from mmdistill_dense.registry import HOOKS
from mmdistill_dense.utils.reproducible import SeededBatches
from tests import toys
from tests.engine.resumption import ITERS, PLAIN, QUICK, RUNS, config, files_of, noted, train, uninterrupted
from tests.faults.tools import resumed_alike

FAST = ['iters, workers', *QUICK[1:]]  # `make test-upstream` runs them with the loop of mmengine 0.10.7
SLOW = [pytest.param(name, marks=pytest.mark.soak) for name in RUNS if name not in FAST]


@pytest.mark.parametrize('name', [*FAST, *SLOW])
def test_every_kind_of_run_resumes_to_the_same_bits(tmp_path, name):
    """And its steps see what those of the uninterrupted one saw."""
    folder, seen = uninterrupted(name)
    again = partial(noted, RUNS[name][0], log_level='WARNING')
    after, _ = resumed_alike(tmp_path, again, *files_of(name), whole=folder)
    assert after == seen[len(seen) - len(after) :] and (len(after) < len(seen) or name == 'a flexible runner')


def test_batches_that_the_loop_of_mmengine_0_10_7_drops_are_not_loaded():
    batches = SeededBatches(DataLoader([0, 1, 2, 3], 2), 1, 0, dropped=1)
    assert (next(batches), next(batches).tolist(), batches.position) == (None, [2, 3], 2)


# Which file `--resume` takes after a kill, and what becomes of the config's `load_from`


def choice(folder, words=(), text='', load_from=None, resume=True):
    """Whether a run resumes, and from which file, as the hook leaves it; ``load_from`` is what a script leaves."""
    (folder / 'run.py').write_text(text)
    cfg, loop = Config.fromfile(folder / 'run.py'), OwnLoop.__new__(OwnLoop)
    runner = SimpleNamespace(work_dir=str(folder), logger=logging.getLogger('resumed'), cfg=cfg, _train_loop=loop)
    runner._resume, runner._load_from = resume, load_from
    with mock.patch('sys.argv', ['train.py', str(folder / 'run.py'), *words]):
        ResumeFile().before_run(runner)
    return runner._resume, runner._load_from


@pytest.fixture
def killed(tmp_path, monkeypatch):
    """A folder with two whole checkpoints, the first of them noted by mmengine, and a part of a third."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / 'killed'
    folder.mkdir()
    for number in (2, 4, 6):
        torch.save(dict(state_dict={}), folder / f'iter_{number}.pth')
    cut = folder / 'iter_6.pth'
    cut.write_bytes(cut.read_bytes()[:-30])
    (folder / 'last_checkpoint').write_text(str(folder / 'iter_2.pth'))
    (folder / 'iter_last.pth').symlink_to(folder / 'iter_2.pth')  # a user's name
    return folder


@pytest.mark.parametrize(('note', 'name', 'message'), [
    ('{folder}/iter_2.pth', None, ''),
    ('killed/iter_2.pth', None, ''),  # from the folder above
    *((note, 'iter_4', 'names no whole file') for note in (None, '', '\n', 'iter_9.pth', '{folder}/iter_6.pth')),
    ('gone/iter_9.pth', 'iter_4', 'names no whole file'),
    *((f'{name}/iter_2.pth', 'iter_2', 'of another folder') for name in ('copied', 'gone')),
])  # fmt: skip
def test_a_note_of_no_file_of_the_folder_gives_way(killed, tmp_path, caplog, note, name, message):
    (tmp_path / 'copied').mkdir()
    shutil.copy(killed / 'iter_2.pth', tmp_path / 'copied')
    (killed / 'last_checkpoint').unlink()
    if note is not None:
        (killed / 'last_checkpoint').write_text(note.format(folder=killed))
    assert choice(killed) == (True, name and str(killed / f'{name}.pth'))
    assert message in caplog.text and (name or not caplog.text)
    assert name is None or f'goes on from {name if name == "iter_4" else killed}' in caplog.text
    assert choice(killed, resume=False) == (False, None)
    assert choice(killed, load_from='given.pth') == (True, 'given.pth')


def test_an_empty_note_without_a_whole_file_is_refused(tmp_path):
    assert choice(tmp_path) == (True, None), 'a first start with --resume begins'
    (tmp_path / 'last_checkpoint').write_text('')
    with pytest.raises(ValueError, match=r'last_checkpoint is empty, and no whole checkpoint is beside it: remove it'):
        choice(tmp_path)


@pytest.mark.parametrize(('epoch', 'latest'), [(150, 'epoch_3'), (90, 'iter_100')])
def test_the_later_of_two_kinds_of_files_is_taken(tmp_path, epoch, latest):
    """Their numbers count different things."""
    for name, iteration in (('iter_100', 100), ('iter_40', 40), ('epoch_3', epoch), ('epoch_2', epoch - 50)):
        torch.save(dict(meta=dict(iter=iteration)), tmp_path / f'{name}.pth')
    (tmp_path / 'iter_200.pth').write_bytes(b'cut off')
    torch.save(dict(meta=dict(iter=900)), tmp_path / 'best_mIoU_iter_900.pth')
    assert latest_checkpoint(tmp_path) == tmp_path / f'{latest}.pth'


START, SELF = "load_from = 'start.pth'\n", "load_from = 'start.pth'\nresume = True\n"
OTHER = (['--cfg-options', 'load_from=other.pth'], ['--cfg-options=load_from="other.pth"'])


@pytest.mark.parametrize(('text', 'words', 'load_from', 'goes_on', 'begins'), [
    (START, [], 'start.pth', None, (False, 'start.pth')),  # mmseg's script leaves it, and would resume from it
    (START, [], None, None, (False, 'start.pth')),  # mmdet's forgets it
    *((START, words, None, None, (False, 'other.pth')) for words in OTHER),
    (START, ['--cfg-options', 'load_from=None'], None, None, (True, None)),
    *((START, words, 'other.pth', 'other.pth', (True, 'other.pth')) for words in ([], *OTHER)),
    *((START, words, 'start.pth', 'start.pth', (True, 'start.pth'))
      for words in (['--cfg-options', 'load_from=start.pth'], ['start.pth'])),
    (SELF, [], 'start.pth', 'start.pth', (True, 'start.pth')),  # a config that resumes by itself
    (SELF, [], None, None, (True, None)),
])  # fmt: skip
def test_load_from_of_the_config_is_for_new_runs(killed, tmp_path, text, words, load_from, goes_on, begins):
    """Without a file, mmengine takes what it noted."""
    (tmp_path / 'empty').mkdir()
    assert choice(killed, words, text, load_from) == (True, goes_on)
    assert choice(tmp_path / 'empty', words, text, load_from) == begins


class Ended(Exception):
    """The end of a process, seen from inside."""


def validated(folder, **more):
    """Trains; returns the scores, their steps in the log of scalars, and the best file with its place in the run."""
    run = train(folder, PLAIN, default_hooks=dict(checkpoint=dict(save_best='mIoU')), **more)
    rows = [json.loads(line) for file in folder.glob('*/vis_data/scalars.json') for line in file.open()]
    (best,) = folder.glob('best_*.pth')
    info = torch.load(best, weights_only=False)['message_hub']['runtime_info']
    scores, position = run.message_hub.log_scalars['val/mIoU'].data[0], (best.name, info['iter'], info['epoch'])
    return list(scores), sorted(row['step'] for row in rows if 'mIoU' in row), position


def test_a_validation_that_a_run_did_not_come_to_is_made_up_for(tmp_path, monkeypatch):
    """Behind the last iteration too, where nothing is left to train; its score would be lost, and the best file."""
    expected = validated(tmp_path / 'whole')
    run, iterations = ValLoop.run, []

    def ended(self):
        iterations.append(self.runner.message_hub.get_info('iter'))
        if len(iterations) == 3:
            raise Ended
        return run(self)

    monkeypatch.setattr(ValLoop, 'run', ended)
    with pytest.raises(Ended):
        validated(tmp_path / 'cut')
    assert validated(tmp_path / 'cut', resume=True) == expected
    assert iterations[3] == iterations[2], 'mmengine validates before it counts the step'
    assert len(expected[0]) == ITERS // 2 and expected[1] == [2, 4, 6]


def test_a_loop_of_the_user_resumes(tmp_path):
    """It need not have the intervals of mmengine's loops, which a missing validation is counted by."""
    plain = toys.seg_net('fcn')

    def run(folder, **changes):
        options = config(folder, 'iters', 0, plain, param_scheduler=None, log_level='WARNING', **changes)
        options.train_cfg = dict(type='OwnLoop', max_iters=3)
        return toys.train(None, options)

    run(tmp_path / 'a')
    assert run(tmp_path / 'b', resume=True, load_from=str(tmp_path / 'a' / 'iter_2.pth')).iter == 3
    words = "may not end as an uninterrupted one does: train_cfg.type='OwnLoop' takes batches in its own way"
    assert [said(tmp_path / name).count(words) for name in 'ab'] == [0, 1]


@LOOPS.register_module()
class OwnLoop(BaseLoop):
    """No more than the runner asks of a loop."""

    epoch, max_epochs, iter = 0, 1, property(lambda self: self._iter)

    def __init__(self, runner, dataloader, max_iters):
        super().__init__(runner, dataloader)
        self.max_iters, self._iter = max_iters, 0

    def run(self):
        for moment in ('before_train', 'before_train_epoch'):
            self.runner.call_hook(moment)
        for batch in self.dataloader:
            if self._iter == self.max_iters:
                break
            self.runner.call_hook('before_train_iter', batch_idx=self._iter, data_batch=batch)
            outputs = self.runner.model.train_step(batch, optim_wrapper=self.runner.optim_wrapper)
            self.runner.call_hook('after_train_iter', batch_idx=self._iter, data_batch=batch, outputs=outputs)
            self._iter += 1
        self.runner.call_hook('after_train')


def test_a_validation_alone_needs_no_training_data(tmp_path):
    """``runner.val()`` of a config that could train, on a machine without its training pictures."""
    options = config(tmp_path, 'iters', 0, toys.seg_net('fcn'), train_dataloader=dict(dataset=dict(type='Missing')))
    runner = toys.make_runner(None, options)
    assert 'mIoU' in runner.val()


def test_a_run_that_stops_early_stops_there_when_it_is_resumed(tmp_path):
    """The hook counts validations without a gain; from the last file, the one that is missing stops the run."""
    stop = dict(type='EarlyStoppingHook', monitor='mIoU', rule='greater', min_delta=200, patience=2)
    run = partial(train, network=PLAIN, custom_hooks=[stop], train_cfg=dict(max_iters=10, val_interval=2))
    assert run(tmp_path / 'a').iter == 6
    for start in ('iter_4', 'iter_6'):
        assert run(tmp_path / start, resume=True, load_from=str(tmp_path / 'a' / f'{start}.pth')).iter == 6, start


def test_processes_that_share_no_folder_are_told(monkeypatch):
    monkeypatch.setattr(resume, 'all_gather_object', lambda counts: [counts, (0, 0)])
    with pytest.raises(ValueError, match=r'iteration 4, epoch 0, iteration 0\): work_dir must be a folder that all'):
        ResumeFile().before_train(mock.Mock(epoch=0, iter=4))


def test_the_file_of_a_best_score_is_not_within_its_epoch():
    """The epoch has ended, and mmengine's FlexibleRunner counts a step too many."""
    loader = DataLoader([0, 1, 2, 3], 2)
    runner = mock.Mock(spec=FlexibleRunner, train_loop=mock.Mock(spec=EpochBasedTrainLoop), train_dataloader=loader)
    hook = ResumeFile()
    hook._code = {}  # of before_run
    runner.epoch, runner.iter = 1, 3
    hook.before_train_epoch(runner)
    hook.before_train_iter(runner, 1)
    for runner.epoch, runner.iter, counts, expected in (
        (1, 3, (1, 4), (1, 4, True)),  # in the hooks of the step
        (1, 4, (2, 4), (2, 4, False)),  # at the end of the epoch
        (2, 4, (3, 4), (2, 4, False)),  # behind the validation
        (2, 4, (2, 5), (2, 4, False)),
    ):
        meta = dict(zip(('epoch', 'iter'), counts, strict=True))
        hook.before_save_checkpoint(runner, dict(meta=meta))
        assert (meta['epoch'], meta['iter'], meta['within_epoch']) == expected


def test_a_best_file_holds_the_count_of_its_own_validation():
    """mmengine writes it before ``EarlyStoppingHook`` counts."""
    stop, counters, checkpoint = EarlyStoppingHook('score', rule='greater', patience=2), Counters(), dict(meta={})
    runner = SimpleNamespace(hooks=[stop], model=toys.nn.Module())

    def saved():
        counters.before_save_checkpoint(runner, checkpoint)
        return checkpoint['meta']['early_stopping']

    stop.best_score, stop.wait_count = 50.0, 1
    counters.before_val_epoch(runner)
    counters.after_val_epoch(runner, dict(score=60.0))
    assert saved() == [('score', 0, 60.0)] and (stop.best_score, stop.wait_count) == (50.0, 1)
    stop._check_stop_condition(55.0)  # it has counted by itself
    assert saved() == [('score', 0, 55.0)]
    counters.after_val(runner)
    stop.best_score, stop.wait_count = 50.0, 1
    assert saved() == [('score', 1, 50.0)]


@pytest.mark.parametrize('monitors', itertools.permutations(['mIoU', 'aAcc', 'mAcc'], 2))
def test_early_stopping_counts_for_its_own_score_alone(monitors):
    fresh = {name: EarlyStoppingHook(name, rule='greater').best_score for name in monitors}
    hooks = [EarlyStoppingHook(name, rule='greater', patience=9) for name in monitors]
    runner = SimpleNamespace(hooks=hooks, model=toys.nn.Module(), _resume=True)
    saved = [('mIoU', 3, 50.0), ('aAcc', 4, 60.0)]
    Counters().after_load_checkpoint(runner, dict(meta=dict(early_stopping=saved)))
    for hook, (name, count, best) in zip(hooks, saved, strict=True):
        expected = (count, best) if hook.monitor == name else (0, fresh[hook.monitor])
        assert (hook.wait_count, hook.best_score) == expected


# What the log says


@HOOKS.register_module()
class Interrupting(Hook):
    """Presses Ctrl-C."""

    def __init__(self, at):
        self.at = at

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.at:
            raise KeyboardInterrupt


def said(folder):
    """Warnings of the log, and none of the files that held it."""
    lines = [line for path in folder.glob('*/*.log') for line in path.read_text().splitlines()]
    for path in folder.glob('*/*.log'):
        path.unlink()
    return '\n'.join(line.partition('WARNING - ')[2] for line in lines)


def test_the_log_says_how_to_go_on(tmp_path):
    def start(at=99, **changes):
        hook = dict(custom_hooks=[dict(type='mmdistill_dense.Interrupting', at=at)])
        train(tmp_path, PLAIN, **hook, log_level='WARNING', train_cfg=dict(val_interval=99), **changes)

    with pytest.raises(KeyboardInterrupt):
        start(at=0)
    assert 'Interrupted in iteration 1 of 6: no checkpoint was written yet.' in said(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        start(at=2)
    text = said(tmp_path)
    assert 'Interrupted in iteration 3 of 6: the same command with --resume goes on from iter_2.pth.' in text
    assert 'The config differs from that of' not in text and 'nothing is left' not in text
    start(resume=True, optim_wrapper=dict(optimizer=dict(lr=0.02)))
    changed = 'custom_hooks.0.at 2 -> 99, optim_wrapper.optimizer.lr 0.01 -> 0.02.'
    kept_words = 'The checkpoint holds optimizer and schedules, so the old optim_wrapper.optimizer.lr stay.'
    assert f'The config differs from that of the checkpoint to resume: {changed} {kept_words}' in said(tmp_path)
    (group,) = torch.load(tmp_path / 'iter_6.pth', weights_only=False)['optimizer']['param_groups']
    assert group['initial_lr'] == 0.01, 'what the log says'
    start(resume=True, optim_wrapper=dict(optimizer=dict(lr=0.02)))
    text = said(tmp_path)
    assert 'The checkpoint to resume is from iteration 6 of 6: nothing is left to train.' in text
    assert 'The config differs from that of' not in text, 'what differs between two starts of one config is no change'


FALLS = dict(type='PolyLR', power=0.9, by_epoch=False, begin=0, end=4)
SCHEDULES = {
    'poly': ([FALLS], 4, True),
    'poly, the step before its last': ([FALLS], 3, True),
    'poly, a rate is left': ([FALLS], 2, False),
    'cosine': ([dict(FALLS, type='CosineAnnealingLR', power=None, T_max=3)], 4, True),
    'linear behind a warmup': (
        [dict(type='LinearLR', start_factor=0.5, by_epoch=False, end=2),
         dict(type='LinearLR', start_factor=1.0, end_factor=0.0, by_epoch=False, begin=2, end=4)], 4, True,
    ),
    'with a least rate': ([dict(FALLS, eta_min=1e-9)], 4, False),
    'one goes on': ([FALLS, dict(type='MultiStepLR', by_epoch=False, milestones=[6], end=9)], 4, False),
    'momentum alone': ([dict(FALLS, type='PolyMomentum')], 4, False),
    'none': ([], 4, False),
}  # fmt: skip


@pytest.mark.parametrize('length', [8, 4], ids=['longer', 'as long'])
@pytest.mark.parametrize('name', SCHEDULES)
def test_a_longer_run_that_has_no_rate_left_is_refused(name, length):
    options, steps, is_over = SCHEDULES[name]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))], lr=0.1, momentum=0.9)
    options = [{key: option for key, option in schedule.items() if option is not None} for schedule in options]
    schedulers = [PARAM_SCHEDULERS.build(dict(option, optimizer=optimizer)) for option in options]
    for scheduler in [scheduler for _ in range(steps) for scheduler in schedulers]:
        scheduler.step()
    saved = Config(dict(train_cfg=dict(type='IterBasedTrainLoop', max_iters=4)))
    states = dict(optimizer=optimizer.state_dict(), param_schedulers=[one.state_dict() for one in schedulers])
    runner = SimpleNamespace(_train_loop=mock.Mock(spec=IterBasedTrainLoop, max_iters=length))
    words = rf'train_cfg\.max_iters={length}: .* with 4, whose param_scheduler ended at rate 0.*load_from'
    with pytest.raises(ValueError, match=words) if is_over and length > 4 else nullcontext():
        check_rates(runner, dict(meta=dict(cfg=saved.pretty_text), **states))
    with pytest.raises(ValueError, match=words) if is_over and length > 4 else nullcontext():  # of several optimizers
        several = {key: dict(a=state) for key, state in states.items()}
        check_rates(runner, dict(meta=dict(cfg=saved.pretty_text), **several))


def test_changed_local_code_is_named_at_resume(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    helper = tmp_path / 'resume_helper.py'
    helper.write_text('FACTOR = 1\n')
    imports = dict(custom_imports=dict(imports=['resume_helper'], allow_failed_imports=False), log_level='WARNING')
    start = partial(train, tmp_path / 'run', PLAIN, train_cfg=dict(max_iters=2, val_interval=99), **imports)
    start()
    resume = dict(resume=True, load_from=str(tmp_path / 'run' / 'iter_1.pth'))
    start(**resume)
    words = 'The code of this run was changed since the checkpoint to resume'
    assert words not in said(tmp_path / 'run')
    helper.write_text('FACTOR = 2\n')
    start(**resume)
    assert words not in said(tmp_path / 'run'), 'this process has imported the code of before'
    local_code._read_module.cache_clear()  # as in a new process
    start(**resume)
    assert f'{words}: resume_helper.py.' in said(tmp_path / 'run')


def test_another_optimizer_or_other_groups_do_not_go_on():
    """torch stopped with an error that names no key, after a warning that the old ones stay."""
    head = dict(custom_keys=dict(decode_head=dict(lr_mult=10)))
    then, now = (Config(dict(optim_wrapper=dict(clip_grad=1, **one))) for one in ({}, dict(paramwise_cfg=head)))
    layers = [torch.nn.Linear(2, 2) for _ in range(2)]
    whole = torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))], lr=1)
    apart = OptimWrapper(torch.optim.SGD([dict(params=layer.parameters()) for layer in layers], lr=1))
    checkpoint = dict(meta=dict(cfg=then.pretty_text), optimizer=whole.state_dict())
    with pytest.raises(ValueError, match=r"paramwise_cfg\.\S+lr_mult='10' \('not set'.* other groups .*load_from"):
        tell_changes(SimpleNamespace(cfg=now, optim_wrapper=apart), checkpoint)
    same = SimpleNamespace(cfg=now, optim_wrapper=OptimWrapper(whole), logger=logging.getLogger('x'))
    tell_changes(same, checkpoint)
    then, now = (Config(dict(optim_wrapper=dict(optimizer=dict(type=kind)))) for kind in ('SGD', 'AdamW'))
    with pytest.raises(ValueError, match=r"optim_wrapper\.optimizer\.type='AdamW'.* state of 'SGD'.*load_from"):
        tell_changes(SimpleNamespace(cfg=now), dict(meta=dict(cfg=then.pretty_text)))
    # mmengine sorts the keys inside of lists where it writes a config: no change. To tell, it would ask for a logger
    flip = Config(dict(tta_pipeline=[dict(transforms=[[dict(type='RandomFlip', prob=0.0)]])]))
    assert flip.pretty_text.index('prob') < flip.pretty_text.index('RandomFlip')
    for one in (then, flip):
        tell_changes(SimpleNamespace(cfg=one), dict(meta=dict(cfg=one.pretty_text)))


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ('option', 'words'), [('save_optimizer', 'no optimizer'), ('save_param_scheduler', 'schedules')]
)
def test_a_file_without_what_a_run_needs_does_not_go_on(option, words, tmp_path):
    """Without schedules mmengine went on with the first rates."""
    parts = dict(default_hooks=dict(checkpoint={option: False}), log_level='WARNING')
    train(tmp_path, PLAIN, **parts)
    assert f'default_hooks.checkpoint.{option}=False: no run can go on from its checkpoints' in said(tmp_path)
    with pytest.raises(ValueError, match=f'{words}.*load_from'):
        train(tmp_path, PLAIN, resume=True, load_from=str(tmp_path / 'iter_2.pth'))


def test_a_checkpoint_from_within_an_epoch_is_warned_of(tmp_path):
    """mmengine begins the epoch again and counts on: here 10 steps of 8."""
    within = dict(default_hooks=dict(checkpoint=dict(by_epoch=False, interval=3)))
    again = partial(train, tmp_path, PLAIN, 'epochs', log_level='WARNING', train_cfg=dict(val_interval=99), **within)
    again()
    assert 'CheckpointHook.by_epoch=False saves within an epoch' in said(tmp_path)
    saved = torch.load(tmp_path / 'iter_6.pth', weights_only=False)
    assert saved['meta'].pop('processes') == 1
    torch.save(dict(saved, meta=dict(saved['meta'], processes=4)), tmp_path / 'iter_6.pth')
    again(resume=True, load_from=str(tmp_path / 'iter_6.pth'))
    message = said(tmp_path)
    assert 'The checkpoint to resume is from iteration 6, within epoch 2. This epoch begins again' in message
    assert 'had 4 process(es), this one has 1: a step takes 0.25 times as many' in message
