"""``DistillHook``: what it refuses at start, what it writes, what it restores and whose gradients it clips."""

import copy
import functools
import gc
import shutil
import types
from contextlib import nullcontext
from unittest import mock

import numpy as np
import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.dataset import Compose
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, loops
from mmseg.datasets.transforms import RandomCrop
from mmseg.models import EncoderDecoder, SegTTAModel
from mmseg.registry import MODELS
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, IterableDataset

from mmdistill_dense.config.resolve import load_model
from mmdistill_dense.datasets.shapes import CLASSES
from mmdistill_dense.distillers import FeatureDistiller
from mmdistill_dense.engine import DistillHook
from mmdistill_dense.engine.distill_hook import SeededStreams, _fit_optimizer
from mmdistill_dense.engine.loss_guard import check_saved
from mmdistill_dense.engine.resume import comparable, describe, differ, identity
from mmdistill_dense.guards import config as checks
from mmdistill_dense.guards.config import check_teacher_classes
from mmdistill_dense.guards.runner import check_loaded
from mmdistill_dense.registry import DISTILLERS, HOOKS, MODEL_WRAPPERS
from mmdistill_dense.utils.reproducible import SeededBatches, WorkerSeed, fork_rng
from tests import toys

KD = dict(type='LogitKD')
MIMIC = dict(type='MaskedMimic')


def pair(distillers=None, teacher=None, **student):
    """The config of an FCN pair."""
    distillers = dict(kd=KD, mimic=MIMIC) if distillers is None else distillers
    return toys.model_config(toys.seg_net('fcn', **student), teacher or toys.seg_teacher('fcn'), distillers)


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    """The folder of a run of two iterations."""
    work_dir = tmp_path_factory.mktemp('finished')
    toys.train(work_dir, pair(), iters=2)
    return work_dir


def resume(path, work_dir, model, iters=4, **changes):
    return toys.train(work_dir, model, iters=iters, resume=True, load_from=str(path), **changes)


# At start


def test_changing_the_carrier_alone_is_refused(tmp_path):
    """A leaf with a carrier, as our configs are written."""
    toys.run_config(tmp_path / 'work', pair({}), iters=1).dump(tmp_path / 'base.py')
    (tmp_path / 'fragment.py').write_text("distillers = dict(kd=dict(type='LogitKD', temperature=1.0))\n")
    path = tmp_path / 'leaf.py'
    path.write_text("_base_ = ['./base.py', './fragment.py']\nmodel = dict(distillers=_base_.distillers)\n")
    config = Config.fromfile(path)
    config.merge_from_dict({'distillers.kd.temperature': 3.0})
    with pytest.raises(ValueError, match=r'top-level distillers was changed.*--cfg-options model\.distillers\.<name>'):
        checks.check_top_level_distillers(config)
    config.merge_from_dict({'model.distillers.kd.temperature': 3.0})
    checks.check_top_level_distillers(config)
    checks.check_top_level_distillers(Config.fromfile(path))


def test_a_run_asks_the_guards_of_classes_and_crop(tmp_path):
    student = dict(decode_head=dict(num_classes=5), auxiliary_head=dict(num_classes=5))
    with pytest.raises(ValueError, match=f'model.student predicts 5 classes.* has {toys.NUM_CLASSES} .*num_classes'):
        toys.train(tmp_path, pair(dict(mimic=MIMIC), **student), iters=1)
    config = toys.run_config(tmp_path, pair(), iters=1)
    config.train_dataloader.dataset.pipeline.insert(1, dict(type='RandomCrop', crop_size=(32, 32)))
    with pytest.raises(ValueError, match=r'crops to \(32, 32\)'):
        toys.train(tmp_path, config)


@pytest.mark.parametrize('kind', ['RandomCrop', 'mmseg.RandomCrop', RandomCrop])
def test_crop_smaller_than_the_size_is_refused(kind):
    """Unless it is resized afterwards. New configs name classes."""
    student, resize = dict(data_preprocessor=dict(size=(64, 64))), dict(type='Resize', scale=(64, 64))
    for size in ((32, 32), (64, 32)):
        crop = dict(type=kind, crop_size=size)
        for steps in ([crop], [resize, crop]):
            with pytest.raises(ValueError) as error:
                checks.check_crop(dict(pipeline=steps), student)
            message = str(error.value)
            assert f'crops to {size}' in message and 'data_preprocessor.size=(64, 64)' in message
            assert 'model.student.data_preprocessor.size' in message and 'RandomCrop.crop_size' in message
        checks.check_crop(dict(pipeline=[crop, resize]), student)
        checks.check_crop(dict(pipeline=[crop]), dict(data_preprocessor=dict(size=(32, 32))))


def test_a_test_with_augmentation_may_use_several_processes():
    """The network is inside of two wrappers then."""
    network = toys.build_plain(toys.seg_net('fcn'))
    both = DistributedDataParallel.__new__(DistributedDataParallel)
    nn.Module.__init__(both)
    both.module = SegTTAModel(network)
    runner = before_its_run(model=both, _load_from='iter_4.pth')
    check_loaded(runner, dict(state_dict=network.state_dict()))
    with pytest.raises(ValueError, match='no tensor would be loaded into EncoderDecoder'):
        check_loaded(runner, dict(state_dict={'other.weight': torch.zeros(1)}))


@pytest.mark.parametrize(('changes', 'processes', 'said'), [
    ({}, 1, None),
    (dict(auto_scale_lr=dict(base_batch_size=2)), 1, None),
    (dict(auto_scale_lr=dict(base_batch_size=16)), 8, None),
    (dict(auto_scale_lr=dict(base_batch_size=16)), 1, 'set train_dataloader.batch_size=16, another number'),
    (dict(auto_scale_lr=dict(base_batch_size=16)), 4, '4 process(es) with train_dataloader.batch_size=2 take 8 '),
    (dict(auto_scale_lr=dict(base_batch_size=15)), 4, 'base_batch_size=15: set another number of processes'),
    (dict(auto_scale_lr=dict(base_batch_size=16, enable=True)), 1, None),
    (dict(auto_scale_lr=dict(base_batch_size=16), optim_wrapper=dict(accumulative_counts=8)), 1, None),
])  # fmt: skip
def test_batch_that_the_learning_rate_is_not_for_is_told(tmp_path, changes, processes, said):
    found = checks.batch_problem(toys.run_config(tmp_path, pair(), **changes), processes)
    assert (found is None) == (said is None) and (said or '') in (found or '')


def test_the_batch_is_told_once_in_the_log(tmp_path):
    toys.train(tmp_path, pair({}), iters=1, log_level='WARNING', auto_scale_lr=dict(base_batch_size=16))
    (log,) = tmp_path.glob('*/*.log')
    assert (
        log.read_text().count('take 2 pictures a step, but the learning rate is for auto_scale_lr.base_batch_size') == 1
    )


@pytest.mark.parametrize('allowed', [False, True])
def test_teacher_of_other_classes(tmp_path, allowed):
    """Of another number, which is in its config; of other names, which are in the checkpoint's meta."""
    head = dict(decode_head=dict(num_classes=3), auxiliary_head=dict(num_classes=3))
    fewer = toys.seg_net('fcn', 16, allow_random=True, allow_other_classes=allowed, **head)
    fit = dict(fit=dict(type='FitNet', student_tap='backbone[3]'))
    words = f'model.teacher predicts 3 classes, the training data set has {toys.NUM_CLASSES} .*background'
    with nullcontext() if allowed else pytest.raises(ValueError, match=words):
        assert check_teacher_classes(CLASSES, toys.teacher_of(toys.build(pair(fit, fewer)))) == []
    content = torch.load(toys.teacher_file('fcn'), weights_only=True)
    names = ['background', *(f'thing{index}' for index in range(1, toys.NUM_CLASSES))]
    torch.save(dict(content, meta=dict(dataset_meta=dict(classes=names))), tmp_path / 't.pth')
    other = toys.seg_net('fcn', 16, checkpoint=str(tmp_path / 't.pth'), allow_other_classes=allowed)
    loaded = toys.teacher_of(toys.ready(toys.build(pair(teacher=other))))
    with nullcontext() if allowed else pytest.raises(ValueError) as error:
        assert check_teacher_classes(CLASSES, loaded) == []
    for word in () if allowed else ('model.teacher.checkpoint was trained on', 'thing1', 'allow_other_classes=True'):
        assert word in str(error.value)


def streams(epochs, accumulated=1, **options):
    """What a run's random streams make of a loader, as when training starts."""
    loader = DataLoader(toys.ToyDetDataset(2), num_workers=1, **options)
    loop = mock.Mock(spec=EpochBasedTrainLoop if epochs else IterBasedTrainLoop, dataloader_iterator=iter(()))
    wrapper = OptimWrapper(torch.optim.SGD([nn.Parameter(torch.ones(1))], 1.0), accumulative_counts=accumulated)
    wrapper.initialize_count_status(nn.Linear(1, 1), 3, 99)
    parts = dict(train_dataloader=loader, train_loop=loop, optim_wrapper=wrapper)
    runner = types.SimpleNamespace(**parts, cfg={}, seed=5, epoch=0, _resume=False)
    hook = SeededStreams()
    with fork_rng():
        hook.before_train(runner)
        hook.before_train_epoch(runner)
    return runner


def test_persistent_workers_are_refused_in_epochs_alone():
    with pytest.raises(ValueError, match=r'train_dataloader\.persistent_workers=True.*by epochs.*False'):
        streams(True, persistent_workers=True)
    assert isinstance(streams(False, persistent_workers=True).train_loop.dataloader_iterator, SeededBatches)


class Stream(IterableDataset):
    """Without indices."""

    def __iter__(self):
        return iter(range(8))


def test_batches_without_indices_come_anew_in_a_second_training_and_from_ones_own_iterator():
    loader = DataLoader(Stream(), 2)
    loop = mock.Mock(spec=IterBasedTrainLoop, dataloader_iterator=loops._InfiniteDataloaderIterator(loader))
    runner = types.SimpleNamespace(train_dataloader=loader, train_loop=loop, cfg={}, seed=5, _resume=False)
    own = iter(loader)
    next(own)
    for batches, first in ((loop.dataloader_iterator, [0, 1]), (None, [0, 1]), (own, [2, 3])):
        loop.dataloader_iterator = loop.dataloader_iterator if batches is None else batches
        with fork_rng():
            SeededStreams().before_train(runner)
            assert next(loop.dataloader_iterator).tolist() == first


def own_worker_init(worker_id):
    """A user's."""


@pytest.mark.parametrize('epochs', [True, False])
def test_a_users_worker_init_fn_stays(epochs):
    own = functools.partial(own_worker_init)  # as mmengine's runner builds it
    runner = streams(epochs, worker_init_fn=own)
    assert runner.train_dataloader.worker_init_fn is own
    assert not isinstance(runner.train_loop.dataloader_iterator, SeededBatches)
    assert 'train_dataloader.worker_init_fn is your own' in told_on_resume(runner)
    assert isinstance(streams(True).train_dataloader.worker_init_fn, WorkerSeed)


def told_on_resume(runner):
    """The warnings of a run that goes on behind three steps."""
    runner.iter, runner._resume, runner.logger = 3, True, mock.Mock()
    with fork_rng():
        SeededStreams().before_train_iter(runner, 0)
    return ' '.join(call.args[0] for call in runner.logger.warning.call_args_list)


@pytest.mark.parametrize(('epochs', 'workers', 'kept'), [(True, 0, True), (True, 1, False), (False, 1, True)])
def test_a_step_that_keeps_pictures_is_told(epochs, workers, kept):
    """But where workers begin without any at each epoch."""
    steps = [dict(type='RandomApply', transforms=[dict(type='mmdet.CachedMosaic', img_scale=(64, 64))])]
    inner = types.SimpleNamespace(pipeline=Compose(steps), datasets=None)
    joined = types.SimpleNamespace(datasets=[inner, types.SimpleNamespace(pipeline=len)])
    runner = streams(epochs)
    runner.train_dataloader = types.SimpleNamespace(worker_init_fn=None, num_workers=workers, dataset=joined)
    runner.train_loop.dataloader_iterator = types.SimpleNamespace(position=4)
    assert ('CachedMosaic kept pictures of earlier batches' in told_on_resume(runner)) == kept
    runner.train_loop.fast_forward_on_resume = True
    assert 'train_cfg.fast_forward_on_resume=True' in told_on_resume(runner)


def test_gradients_that_were_not_saved_are_told():
    assert 'accumulative_counts: the gradients that waited' in told_on_resume(streams(True, accumulated=2))
    assert told_on_resume(streams(True, accumulated=3)) == ''


def test_each_epoch_and_each_step_has_streams_of_its_own():
    runner, drawn = streams(True), []
    for runner.epoch, runner.iter in ((0, 0), (1, 0), (1, 1)):
        with fork_rng():
            SeededStreams().before_train_epoch(runner)
            SeededStreams().before_train_iter(runner, 0)
            drawn.append((np.random.rand(), float(torch.rand(()))))
    assert drawn[0][0] != drawn[1][0] == drawn[2][0] and drawn[0][1] == drawn[1][1] != drawn[2][1]


def before_its_run(**given):
    parts = dict(
        _resume=False,
        hooks=[],
        register_hook=lambda hook: None,
        _train_loop=None,
        _val_loop=None,
        cfg=Config(dict(model=pair())),
    )
    return types.SimpleNamespace(**parts, **given)


class FSDPStrategy:
    """A kind of strategy."""


@MODEL_WRAPPERS.register_module(force=True)
class Sharded(BaseModel):
    """A wrapper that is no DDP."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, inputs, data_samples=None, mode='tensor'):
        return None


def test_sharding_is_refused():
    model = toys.distilled(student=toys.seg_net('fcn'), teacher=toys.seg_teacher('fcn'))
    sharded = dict(FSDPStrategy=dict(strategy=FSDPStrategy(), model=model), Sharded=dict(model=Sharded(model)))
    for name, parts in sharded.items():
        with pytest.raises(ValueError, match=rf'{name} shards the student.*DDP'):
            DistillHook().before_run(before_its_run(**parts))
    plain = toys.build_plain(toys.seg_net('fcn'))
    DistillHook().before_run(before_its_run(strategy=FSDPStrategy(), model=plain))


def test_pretrained_file_of_another_network_is_refused(tmp_path):
    """mmengine would warn and leave the rest random."""
    right, wrong = (str(tmp_path / name) for name in ('right.pth', 'wrong.pth'))
    backbone = toys.build_plain(toys.seg_net('fcn')).backbone.state_dict()
    torch.save(dict(state_dict={f'backbone.{name}': value for name, value in backbone.items()}), right)
    torch.save(dict(state_dict={f'other.{name}b': value for name, value in backbone.items()}), wrong)
    lightning = str(tmp_path / 'lightning.ckpt')
    torch.save(dict(state_dict={f'model.backbone.{name}': value for name, value in backbone.items()}), lightning)

    def student(path, prefix=None):
        return toys.seg_net('fcn', backbone=dict(init_cfg=dict(type='Pretrained', checkpoint=path, prefix=prefix)))

    words = r'backbone\.init_cfg\.checkpoint=.*wrong.pth. fits 0 of the.*it holds other\.'
    with pytest.raises(ValueError, match=words):
        toys.train(tmp_path / 'run', student(wrong), iters=1)
    with pytest.raises(ValueError, match=words):
        checks.check_pretrained(toys.build(pair(backbone=dict(init_cfg=dict(type='Pretrained', checkpoint=wrong)))))
    with pytest.raises(ValueError, match=r"a whole network: add prefix='backbone\.' to backbone\.init_cfg"):
        checks.check_pretrained(toys.build(toys.model_config(student(right), distillers={})))
    with pytest.raises(ValueError, match=r"a whole network: add prefix='model\.backbone\.' to backbone\.init_cfg"):
        checks.check_pretrained(toys.build(toys.model_config(student(lightning), distillers={})))
    checks.check_pretrained(toys.build(toys.model_config(student(right, 'backbone.'), distillers={})))


def test_a_file_of_a_shallower_network_is_told(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(checks, 'print_log', lambda text, *_: said.append(text))
    deep = toys.build_plain(toys.seg_net('fcn')).backbone
    state = deep.state_dict()
    deep.init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'shallow.pth'))
    for share, told in ((1, 0), (0.7, 1)):
        kept = list(state)[: int(share * len(state))]
        torch.save(dict(state_dict={name: state[name] for name in kept}), tmp_path / 'shallow.pth')
        checks.check_pretrained(deep)
        assert len(said) == told
    torch.save({name: value for name, value in state.items() if not name.startswith('stem.')}, tmp_path / 'shallow.pth')
    checks.check_pretrained(deep)
    assert 'it lacks 15 others' in said.pop(), 'few of all, but the whole stem'
    assert 'others, which keep their first values: ' in said[0]


def test_two_files_for_the_stages_of_one_backbone_are_refused():
    """The last stage of a C4 network is part of its RoI head, with a key of its own."""
    network = nn.ModuleDict(dict(backbone=nn.Module(), roi_head=nn.Module()))
    network.roi_head.shared_head = nn.Module()
    for part, file in ((network.backbone, 'mine.pth'), (network.roi_head.shared_head, 'theirs.pth')):
        part.init_cfg = dict(type='Pretrained', checkpoint=file)
    with pytest.raises(ValueError, match=r"='mine.pth', roi_head.shared_head.*='theirs.pth': the stages of one"):
        checks.check_pretrained(network)
    network.roi_head.shared_head.init_cfg['checkpoint'] = 'mine.pth'
    checks.check_pretrained(network)


def test_pretrained_file_is_looked_into_as_mmengine_does(tmp_path, monkeypatch):
    """Below the home too, and in `check`, which gets its files from pretrained_parts; not below `model`."""
    monkeypatch.setenv('HOME', str(tmp_path))
    torch.save(dict(state_dict=dict(other=torch.zeros(1))), tmp_path / 'wrong.pth')
    student = toys.seg_net('fcn', backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='~/wrong.pth')))
    model = toys.build(toys.model_config(student, distillers={}))
    with pytest.raises(ValueError, match=r'wrong\.pth. fits 0 of the'):
        checks.check_pretrained(model)
    assert [path for _, _, path, _ in checks.pretrained_parts(model)] == [str(tmp_path / 'wrong.pth')]
    network, file = model.backbone, tmp_path / 'deit.pth'
    network.init_cfg = dict(type='Pretrained', checkpoint=str(file))
    torch.save(dict(model=network.state_dict()), file)
    with pytest.raises(ValueError, match=r'model\.init_cfg\.checkpoint: .*deit.pth. has its tensors below `model`'):
        checks.check_pretrained(network)
    torch.save(dict(state_dict=network.state_dict(), model={}), file)
    checks.check_pretrained(network)


def test_a_backbone_that_reads_its_file_in_another_way_is_not_trained_at_random(tmp_path):
    """PIDNet, for one, looks for its names at the top of a file."""
    network, file = toys.build_plain(toys.seg_net('fcn'), seed=1).backbone, tmp_path / 'mine.pth'
    network.init_cfg = dict(type='Pretrained', checkpoint=str(file))
    torch.save(dict(state_dict={name: value + 1 for name, value in network.state_dict().items()}), file)
    checks.check_pretrained(network)
    with pytest.raises(ValueError, match=r'but ResNet\w* read \d+ of \d+: save its tensors alone'):
        checks.check_pretrained(network, loaded=True)
    whole = nn.ModuleDict(dict(backbone=network))
    whole.init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'whole.pth'))
    checks.check_pretrained(whole, loaded=True)
    network._is_init = False
    network.init_weights()
    checks.check_pretrained(network, loaded=True)
    torch.save(dict(state_dict=toys.build_plain(toys.seg_net('fcn'), seed=3).backbone.state_dict()), tmp_path / 'first')
    network.init_cfg = [dict(type='Pretrained', checkpoint=str(tmp_path / 'first')), network.init_cfg]
    checks.check_pretrained(network, loaded=True)


SWIN = dict(embed_dims=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1), window_size=2)
SWIN_NAMES = {
    'stages.': 'layers.',
    'attn.w_msa.': 'attn.',
    'ffn.layers.0.0.': 'mlp.fc1.',
    'ffn.layers.1.': 'mlp.fc2.',
    'embed.projection': 'embed.proj',
}


def test_mmdets_swin_renames_the_original_files(tmp_path):
    """``convert_weights=True``, in most of mmdet's configs: the check reads the file as the backbone does."""
    network = toys.build_plain(dict(type='mmdet.SwinTransformer', convert_weights=True, **SWIN))
    state = {name: value + 1 for name, value in network.state_dict().items()}
    for own, original in SWIN_NAMES.items():
        state = {name.replace(own, original): value for name, value in state.items()}
    network.init_cfg = ConfigDict(type='Pretrained', checkpoint=str(tmp_path / 'swin.pth'))
    torch.save(dict(model={**state, 'head.weight': torch.zeros(1)}), tmp_path / 'swin.pth')
    before = network.stages[0].blocks[0].ffn.layers[1].bias.clone()
    network.init_weights()
    assert torch.equal(network.stages[0].blocks[0].ffn.layers[1].bias, before + 1)
    checks.check_pretrained(network)
    torch.save(dict(model={f'other.{name}': value for name, value in state.items()}), tmp_path / 'swin.pth')
    with pytest.raises(ValueError, match='fits 0 of the'):
        checks.check_pretrained(network)


@pytest.mark.parametrize(('package', 'wrap'), [
    ('mmseg', lambda state: dict(model=state)),
    *((package, lambda state: dict(state_dict={
        'head.weight': torch.zeros(1), **{f'backbone.{name}': value for name, value in state.items()}
    })) for package in ('mmseg', 'mmdet')),
])  # fmt: skip
def test_swin_takes_its_file_out_of_what_holds_it_by_itself(tmp_path, package, wrap):
    """Below `model`, or the backbone of a whole network."""
    network = toys.build_plain(dict(type=f'{package}.SwinTransformer', **SWIN))
    torch.save(wrap({name: value + 1 for name, value in network.state_dict().items()}), tmp_path / 'swin.pth')
    network.init_cfg = ConfigDict(type='Pretrained', checkpoint=str(tmp_path / 'swin.pth'))
    before = network.patch_embed.projection.bias.clone()
    network.init_weights()
    assert torch.equal(network.patch_embed.projection.bias, before + 1)
    checks.check_pretrained(network)
    assert checks.count_fitting(network, str(tmp_path / 'swin.pth'), None)[0] > 60


# Progress


class Diary(FeatureDistiller):
    """Notes where the run stands."""

    notes: list = []

    def prepare(self, runner, teacher):
        self.notes.append(('prepare', runner.iter, teacher.network is not None, teacher.key))

    def loss(self, student, teacher, level):
        self.notes.append((self.state.iteration, self.state.max_iters, self.state.seed, self.state.rank))
        return 0.0 * student.mean()


def test_distillers_are_prepared_and_know_the_place(tmp_path):
    DISTILLERS.register_module(module=Diary, force=True)
    Diary.notes.clear()
    distillers = dict(diary=dict(type='Diary', student_tap='backbone[3]', align='conv'))
    toys.train(tmp_path, pair(distillers), iters=3)
    assert Diary.notes == [('prepare', 0, True, 'model.teacher'), *((i, 3, 5, 0) for i in range(3))]
    Diary.notes.clear()
    toys.train(tmp_path, pair(distillers), epochs=1)
    assert Diary.notes[1:] == [(i, 4, 5, 0) for i in range(4)]


# Checkpoints


def test_receipt_and_distillers_are_written(finished):
    content = torch.load(finished / 'iter_2.pth', weights_only=False)
    told = content['meta']['distill']
    (teacher,) = told['teachers'].values()
    assert teacher['config'] == toys.SEG['fcn'] and teacher['file'] == 'fcn_16.pth' and len(teacher['sha256']) == 64
    assert teacher['matched'] == teacher['total'] > 0 and teacher['ignored'] == 0
    scores = 'decode_head.conv_seg'
    assert told['distillers']['kd'] == dict(type='LogitKD', tensors={}, taps=[[scores, scores]])
    assert told['distillers']['mimic']['type'] == 'MaskedMimic'
    assert told['distillers']['mimic']['tensors']['aligns.0.weight'] == [128, 64, 1, 1]
    assert sorted(content['distillers']) == [
        'mimic.aligns.0.bias', 'mimic.aligns.0.weight', 'mimic.parts.0.bias', 'mimic.parts.0.weight',
    ]  # fmt: skip
    assert not any('distillers' in name or 'teacher' in name for name in content['state_dict'])


def test_best_checkpoints_are_students_alone_and_no_run_resumes_from_them(tmp_path):
    """mmengine would go on with a new momentum and the first learning rate."""
    changes = dict(default_hooks=dict(checkpoint=dict(save_best='mIoU')), train_cfg=dict(val_interval=1))
    toys.train(tmp_path, pair(), iters=1, **changes)
    (path,) = tmp_path.glob('best_mIoU*.pth')
    content = torch.load(path, weights_only=False)
    assert 'distillers' not in content and 'optimizer' not in content and content['meta']['distill']
    toys.build_plain(toys.seg_net('fcn')).load_state_dict(content['state_dict'], strict=True)
    with pytest.raises(ValueError, match=r'no optimizer.*save_best.*iter_\*\.pth.*load_from'):
        resume(path, tmp_path / 'b', toys.seg_net('fcn'))


def test_starting_from_a_plain_students_weights(tmp_path):
    path = tmp_path / 'plain.pth'
    plain = toys.build_plain(toys.seg_net('fcn'), seed=11)
    torch.save(dict(state_dict=plain.state_dict()), path)
    still = dict(optim_wrapper=dict(optimizer=dict(lr=0.0)))
    runner = toys.train(tmp_path / 'run', pair(), iters=1, load_from=str(path), **still)
    weights = {n: v for n, v in plain.state_dict().items() if 'running' not in n and 'num_batches' not in n}
    assert not toys.differing({n: runner.model.state_dict()[n] for n in weights}, weights)


@HOOKS.register_module()
class Peek(Hook):
    """Keeps the distillers' state as training begins."""

    priority = 'LOWEST'
    seen: dict = {}

    def before_train(self, runner):
        Peek.seen = toys.student_state(runner.model.distillers)


PEEK = dict(custom_hooks=[dict(type='mmdistill_dense.Peek')])


OTHERS = {
    'weights': dict(teacher='other'),
    'fewer': dict(distillers=dict(kd=KD)),
    'names': dict(distillers=dict(kd=KD, other=MIMIC)),
    'types': dict(distillers=dict(kd=dict(type='AfDCD', pool_size=0), mimic=MIMIC)),
    'shapes': dict(distillers=dict(kd=KD, mimic=dict(MIMIC, student_tap='backbone[1]'))),
}


@pytest.fixture(scope='module')
def other_teacher(tmp_path_factory):
    """A teacher like the usual one with other numbers."""
    path = tmp_path_factory.mktemp('other') / 'other.pth'
    torch.save(dict(state_dict=toys.build_plain(toys.seg_net('fcn', 16), seed=99).state_dict()), path)
    return toys.seg_net('fcn', 16, checkpoint=str(path))


def told(finished):
    return torch.load(finished / 'iter_2.pth', weights_only=False)['meta']['distill']


def identity_of(**options):
    return identity(toys.ready(toys.build(pair(**options))))


@pytest.mark.parametrize('change', OTHERS.values(), ids=OTHERS)
def test_another_run_is_told_apart(finished, other_teacher, change):
    now = identity_of(**{name: other_teacher if value == 'other' else value for name, value in change.items()})
    assert differ(told(finished), now)
    then, words = describe(told(finished)), describe(now)
    assert then.startswith('teacher mmseg::fcn') and 'mimic: MaskedMimic (4 tensors; taps backbone[3])' in then
    assert then != words and ('other.pth' in words or 'fcn_16.pth' in words)


def test_a_moved_teacher_and_other_options_are_the_same_run(finished, tmp_path):
    """``{{ fileDirname }}`` makes the config's path absolute; with a hash of the weights it does not matter."""
    path = tmp_path / 'moved.pth'
    shutil.copy(toys.teacher_file('fcn'), path)
    options = dict(kd=dict(KD, temperature=4.0), mimic=MIMIC)
    assert not differ(
        told(finished), identity_of(distillers=options, teacher=toys.seg_net('fcn', 16, checkpoint=str(path)))
    )
    here, there, other = (
        dict(teachers=dict(t=dict(config=f'{folder}/t.py', file='t.pth', sha256=sha, matched=1)), distillers={})
        for folder, sha in (('a', '1f'), ('b', '1f'), ('a', '2f'))
    )
    assert comparable(here) == comparable(there) != comparable(other)


def test_resume_with_something_else_is_refused(finished, tmp_path, other_teacher):
    with pytest.raises(ValueError) as error:
        resume(finished / 'iter_2.pth', tmp_path / 'a', pair(teacher=other_teacher))
    message = str(error.value)
    assert 'differ in teachers, distillers' in message and 'resume_changed=True' in message and 'load_from' in message
    assert 'checkpoint: teacher mmseg::fcn' in message and 'this run:   teacher mmseg::fcn' in message
    with pytest.raises(ValueError, match='this run:   no distillation'):
        resume(finished / 'iter_2.pth', tmp_path / 'b', toys.seg_net('fcn'))


ALLOW = dict(default_hooks=dict(distill=dict(resume_changed=True)), **PEEK)


def test_resume_changed_on_request(finished, tmp_path, other_teacher):
    stored = torch.load(finished / 'iter_2.pth', weights_only=False)['distillers']
    resume(finished / 'iter_2.pth', tmp_path, pair(teacher=other_teacher), **ALLOW)
    assert not toys.differing(Peek.seen, stored)
    told = torch.load(tmp_path / 'iter_4.pth', weights_only=False)['meta']['distill']
    assert next(iter(told['teachers'].values()))['file'] == 'other.pth', 'the next receipt is the new one'


def test_resume_with_one_distiller_more(finished, tmp_path):
    """What was there is restored, with its optimizer state; what is new starts anew."""
    stored = torch.load(finished / 'iter_2.pth', weights_only=False)
    more = dict(kd=KD, mimic=MIMIC, more=dict(MIMIC, student_tap='backbone[1]'))
    runner = resume(finished / 'iter_2.pth', tmp_path / 'a', pair(more), **ALLOW)
    assert runner.iter == 4
    restored = {name: value for name, value in Peek.seen.items() if name.startswith('mimic.')}
    assert len(Peek.seen) == 8 and not toys.differing(restored, stored['distillers'])
    again = torch.load(tmp_path / 'a' / 'iter_4.pth', weights_only=False)['optimizer']
    count = len(list(runner.model.parameters()))
    assert len(again['param_groups'][0]['params']) == count == len(stored['optimizer']['param_groups'][0]['params']) + 4
    fewer = resume(finished / 'iter_2.pth', tmp_path / 'b', pair(dict(kd=KD)), **ALLOW)
    assert fewer.iter == 4 and not list(fewer.model.distillers.parameters())


def test_new_distillers_do_not_get_the_optimizers_state_of_others():
    model = nn.ModuleDict(dict(student=nn.Linear(2, 2), distillers=nn.ModuleDict(dict(new=nn.Linear(2, 3)))))
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    saved = dict(param_groups=[dict(params=[0, 1, 2])], state={index: {} for index in range(3)})
    _fit_optimizer(saved, types.SimpleNamespace(optim_wrapper=wrapper), model)
    assert saved == dict(param_groups=[dict(params=[0, 1, 2, 3])], state={0: {}, 1: {}})


def test_resume_with_other_distillers_and_several_groups_is_refused(tmp_path):
    groups = dict(optim_wrapper=dict(paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=0.1)))))
    toys.train(tmp_path / 'a', pair(dict(kd=KD)), iters=2, **groups)
    with pytest.raises(ValueError, match='several parameter groups.*load_from'):
        resume(tmp_path / 'a' / 'iter_2.pth', tmp_path / 'b', pair(), **ALLOW, **groups)


def test_a_control_resumes_as_a_distilled_run_if_asked(tmp_path):
    """All distillers are new then."""
    toys.train(tmp_path / 'a', toys.seg_net('fcn'), iters=2)
    file = tmp_path / 'a' / 'iter_2.pth'
    content = torch.load(file, weights_only=False)
    assert 'distillers' not in content and 'distill' not in content['meta']
    with pytest.raises(ValueError, match='checkpoint: no distillation'):
        resume(file, tmp_path / 'b', pair())
    assert resume(file, tmp_path / 'b', pair(), **ALLOW).iter == 4


# Several optimizers


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
        loss, told = self.parse_losses(self._run_forward(self.data_preprocessor(data, True), mode='loss'))
        optim_wrapper['body'].backward(loss * float('nan') if self.poisoned else loss, retain_graph=True)
        optim_wrapper['head'].backward(0 * told['loss'])  # what goes to the log may be trained on too
        for one in optim_wrapper.values():
            one.step()
            one.zero_grad()
        return told


def of_two(tmp_path, left_out='nothing', **changes):
    student = load_model(toys.seg_net('fcn'), 'model').model.to_dict()
    model = toys.model_config(dict(student, type='StepsTwice'), toys.seg_teacher('fcn'), dict(mimic=MIMIC))
    config = toys.run_config(tmp_path, model, iters=2, **changes)
    config.optim_wrapper = dict(constructor='BodyAndHead', left_out=left_out)
    return config


def test_a_loss_that_is_not_finite_stops_a_run_of_several_optimizers(tmp_path, monkeypatch):
    model = toys.train(None, of_two(tmp_path / 'a')).model
    assert all(bool(value.isfinite().all()) for value in model.state_dict().values())
    assert not {'train_step', 'parse_losses'} & {*vars(model)}
    monkeypatch.setattr(StepsTwice, 'poisoned', True)
    with pytest.raises(RuntimeError, match='Iteration 1: the loss is not finite, and the step was not taken'):
        toys.train(None, of_two(tmp_path / 'b'))


def test_limits_and_measurements_work_with_several_optimizers(tmp_path):
    """Each distiller is clipped by its own limit, the user's clipping leaves it alone, and balance sees the scale."""
    config = of_two(tmp_path)
    config.optim_wrapper.clip_grad = dict(max_norm=1e-2)
    limited = dict(MIMIC, clip_max_norm=1e-3, loss_weight=100.0)
    config.model.distillers = dict(mimic=limited, kd=dict(KD, balance=dict(ratio='auto', until=1.0)))
    runner, norms, scales = toys.make_runner(tmp_path, config), [], []

    class Watch(Hook):
        def before_train(self, runner):
            body, head = runner.optim_wrapper.values()
            head.loss_scaler = torch.amp.GradScaler('cpu', init_scale=8.0)
            body.optimizer.register_step_post_hook(self.note)

        def note(self, *_):
            model, body = runner.model, runner.optim_wrapper['body']
            own = {id(parameter) for parameter in model.distillers.parameters()}
            held = body.param_groups[0]['params']
            parts = [[p for p in held if (id(p) in own) == mine] for mine in (True, False)]
            norms.append([float(nn.utils.get_total_norm([p.grad for p in part])) for part in parts])
            scales.append(model.distillation.state.loss_scale)

    runner.register_hook(Watch(), priority='VERY_HIGH')
    runner.train()
    assert scales == [8.0, 8.0]
    assert norms == [[pytest.approx(1e-3, rel=1e-2), pytest.approx(1e-2, rel=1e-2)]] * 2
    assert runner.model.distillers['kd'].balancer.ratio == 2.0, 'both optimizers are SGD'


def test_too_few_pictures_for_a_method_stop_a_run_before_anything_is_prepared(tmp_path, monkeypatch):
    def check_data(self, pictures):
        if pictures < 9:
            raise ValueError(f'{self.key} needs 9 pictures, got {pictures}.')

    monkeypatch.setattr(toys.MaskedMimic, 'check_data', check_data)
    monkeypatch.setattr(toys.MaskedMimic, 'prepare', lambda *_: pytest.fail('prepared'))
    config = toys.run_config(tmp_path, pair(dict(mimic=MIMIC)), iters=1)
    config.train_dataloader.dataset = dict(type='RepeatDataset', times=2, dataset=config.train_dataloader.dataset)
    with pytest.raises(ValueError, match=r'distillers\.mimic needs 9 pictures, got 8'):
        toys.train(tmp_path, config)


def test_parameters_of_distillers_that_no_optimizer_holds_are_named(tmp_path):
    """They would be trained by nothing, and the student would follow a random projection."""
    with pytest.raises(ValueError, match=r'leaves out parameters of distillers: mimic\.aligns\.0\.weight'):
        toys.train(None, of_two(tmp_path, left_out='distillers'))


# Steps that are left out, and what is saved


def test_masks_may_be_infinite_and_nothing_may_be_nan():
    model = nn.Module()
    model.register_buffer('mask', torch.tensor([0.0, -torch.inf]))
    check_saved(dict(state_dict=model.state_dict(), meta=dict(iter=1)), model)
    for name, value in (('mask', torch.nan), ('weight', torch.inf)):
        with pytest.raises(RuntimeError, match=f'the weights are not finite .{name}'):
            check_saved(dict(state_dict={name: torch.tensor(value)}, meta=dict(iter=1)), model)


# Clipping


def test_log_lines_show_terms_and_shares(tmp_path):
    config = toys.run_config(tmp_path, pair(dict(mimic=dict(MIMIC, clip_max_norm=1.0))), iters=2)
    config.log_level, before = 'INFO', copy.deepcopy(config.model.to_dict())
    toys.train(tmp_path, config)
    assert config.model.to_dict() == before, 'the config is left as it was'
    (log,) = tmp_path.rglob('*.log')
    lines = [line for line in log.read_text().splitlines() if 'Iter(train)' in line]
    assert len(lines) == 2
    for word in ('loss:', 'distill.mimic.loss_mimic:', 'distill.mimic.share:', 'distill.mimic.grad_norm:'):
        assert word in lines[1], lines[1]
    assert 'SHA' in log.read_text() or 'sha256' in log.read_text(), 'the receipt'


@HOOKS.register_module()
class Census(Hook):
    """Counts the tensors that are alive after a step."""

    priority = 'LOWEST'
    seen: list = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        del data_batch, outputs
        gc.collect()
        self.seen.append(sum(issubclass(type(one), torch.Tensor) for one in gc.get_objects()))


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
