"""What is refused when a run starts, and in its first step, where a teacher sees or gives what cannot teach."""

from contextlib import nullcontext
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.model import BaseModel
from mmengine.runner import Runner
from mmseg.datasets.transforms import RandomCrop
from mmseg.models import SegTTAModel
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mmdistill_dense.apps.check import Options, check_config
from mmdistill_dense.datasets.shapes import CLASSES
from mmdistill_dense.engine import DistillHook, work_folder
from mmdistill_dense.engine.work_folder import folder_of
from mmdistill_dense.guards import config as checks
from mmdistill_dense.guards import run_rules
from mmdistill_dense.guards.findings import RunFacts
from mmdistill_dense.guards.runner import check_loaded
from mmdistill_dense.registry import MODEL_WRAPPERS
from tests import toys
from tests.gloo import join, start

KD, MIMIC = dict(type='LogitKD'), dict(type='MaskedMimic')
FIT = dict(fit=dict(type='FitNet', student_tap='backbone[3]'))
OTHER_CLASSES = ('background', *(f'thing{index}' for index in range(1, toys.NUM_CLASSES)))


def pair(distillers=None, teacher=None, more=None, **student):
    """The config of an FCN pair; ``more`` is the option of pictures without labels."""
    distillers = dict(kd=KD, mimic=MIMIC) if distillers is None else distillers
    options = {} if more is None else dict(unlabelled=more)
    return toys.model_config(toys.seg_net('fcn', **student), teacher or toys.seg_teacher('fcn'), distillers, **options)


@pytest.mark.parametrize('kind', ['RandomCrop', 'mmseg.RandomCrop', RandomCrop])
def test_crop_smaller_than_the_size_is_refused(kind):
    """Unless it is resized afterwards. New configs name classes."""
    student, resize = dict(data_preprocessor=dict(size=(64, 64))), dict(type='Resize', scale=(64, 64))
    crop = dict(type=kind, crop_size=(64, 32))
    for steps in ([crop], [resize, crop]):
        with pytest.raises(ValueError, match=r'crops to \(64, 32\)') as error:
            checks.check_crop(dict(pipeline=steps), student)
        assert 'model.student.data_preprocessor.size' in str(error.value) and 'RandomCrop.crop_size' in str(error.value)
    checks.check_crop(dict(pipeline=[crop, resize]), student)
    checks.check_crop(dict(pipeline=[crop]), dict(data_preprocessor=dict(size=(32, 32))))


@pytest.mark.parametrize(('changes', 'processes', 'output'), [
    ({}, 1, None),
    (dict(auto_scale_lr=dict(base_batch_size=2)), 1, None),
    (dict(auto_scale_lr=dict(base_batch_size=16)), 8, None),
    (dict(auto_scale_lr=dict(base_batch_size=16)), 1, 'set train_dataloader.batch_size=16, another number'),
    (dict(auto_scale_lr=dict(base_batch_size=16)), 4, '4 process(es) with train_dataloader.batch_size=2 take 8 '),
    (dict(auto_scale_lr=dict(base_batch_size=15)), 4, 'base_batch_size=15: set another number of processes'),
    (dict(auto_scale_lr=dict(base_batch_size=16, enable=True)), 1, None),
    (dict(auto_scale_lr=dict(base_batch_size=16), optim_wrapper=dict(accumulative_counts=8)), 1, None),
])  # fmt: skip
def test_batch_that_the_learning_rate_is_not_for_is_told(tmp_path, changes, processes, output):
    actual = checks.batch_problem(toys.run_config(tmp_path, pair(), **changes), processes)
    assert (actual is None) == (output is None) and (output or '') in (actual or '')


@pytest.mark.parametrize('allowed', [False, True])
def test_a_teacher_of_another_number_of_classes(allowed):
    head = dict(decode_head=dict(num_classes=3), auxiliary_head=dict(num_classes=3))
    fewer = toys.seg_net('fcn', 16, allow_random=True, allow_other_classes=allowed, **head)
    words = f'model.teacher predicts 3 classes, the training data set has {toys.NUM_CLASSES} .*background'
    with nullcontext() if allowed else pytest.raises(ValueError, match=words):
        assert checks.check_teacher_classes(CLASSES, toys.teacher_of(toys.build(pair(FIT, fewer)))) == []


@pytest.mark.sample(3)
@pytest.mark.parametrize(('classes', 'options', 'words'), [
    (CLASSES, {}, None),
    (CLASSES[::-1], {}, CLASSES[-1]),
    ((CLASSES[1], CLASSES[0], *CLASSES[2:]), {}, CLASSES[1]),
    (CLASSES[1:] + CLASSES[:1], {}, CLASSES[1]),
    (OTHER_CLASSES, {}, 'background, thing1'),
    (OTHER_CLASSES, dict(allow_other_classes=True), None),
])  # fmt: skip
def test_a_teacher_has_the_classes_of_the_data_in_their_order(tmp_path, classes, options, words):
    """Their names are in the meta of the checkpoint."""
    content = torch.load(toys.teacher_file('fcn'), weights_only=True)
    torch.save(dict(content, meta=dict(dataset_meta=dict(classes=list(classes)))), tmp_path / 't.pth')
    option = toys.seg_net('fcn', 16, checkpoint=str(tmp_path / 't.pth'), **options)
    teacher = toys.teacher_of(toys.ready(toys.build(pair(teacher=option))))
    message = rf"model\.teacher\.checkpoint was trained on .* \({words}.*classes='auto'.*allow_other_classes=True"
    with pytest.raises(ValueError, match=message) if words else nullcontext():
        assert checks.check_teacher_classes(CLASSES, teacher) == []


def before_its_run(**facts):
    parts = dict(_resume=False, hooks=[], register_hook=lambda hook: None, _train_loop=None, _val_loop=None)
    return SimpleNamespace(**parts, cfg=Config(dict(model=pair())), **facts)


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


# Files of the first weights


def begins_with(network, path, content, **init):
    """The network, which is to be initialised from a file of this content."""
    torch.save(content, path)
    network.init_cfg = ConfigDict(type='Pretrained', checkpoint=str(path), **init)
    return network


def named(prefix, state):
    return {f'{prefix}{name}': value for name, value in state.items()}


@pytest.fixture
def backbone():
    return toys.build_plain(toys.seg_net('fcn')).backbone


WHOLE = "a whole network: add prefix='{}' to backbone.init_cfg"
ABSENT = r'backbone\.init_cfg\.checkpoint=.*file.pth. fits 0 of the.*it holds other\.'
BELOW = r'backbone\.init_cfg\.checkpoint: .*file.pth. has its tensors below `model`'


@pytest.mark.sample(3)
@pytest.mark.parametrize(('names', 'key', 'init', 'words'), [
    ('', 'state_dict', {}, None),
    ('other.', 'state_dict', {}, ABSENT),
    ('', 'model', {}, BELOW),
    *((prefix, 'state_dict', init, words)
      for prefix in ('backbone.', 'model.backbone.')  # the latter as Lightning writes it
      for init, words in (({}, WHOLE.format(prefix)), (dict(prefix=prefix), None))),
])  # fmt: skip
def test_a_pretrained_file_fits_its_network(tmp_path, backbone, names, key, init, words):
    """mmengine would warn and leave the rest random."""
    begins_with(backbone, tmp_path / 'file.pth', {key: named(names, backbone.state_dict())}, **init)
    with pytest.raises(ValueError, match=words) if words else nullcontext():
        checks.check_pretrained(nn.ModuleDict(dict(backbone=backbone)))


def test_a_file_of_a_shallower_network_is_told(tmp_path, monkeypatch, backbone):
    output, state = [], backbone.state_dict()
    monkeypatch.setattr(checks, 'print_log', lambda text, *_: output.append(text))
    for share, message in ((1, 0), (0.7, 1)):
        part_of_state = {name: state[name] for name in list(state)[: int(share * len(state))]}
        checks.check_pretrained(begins_with(backbone, tmp_path / 'shallow.pth', dict(state_dict=part_of_state)))
        assert len(output) == message
    part_of_state = {name: value for name, value in state.items() if not name.startswith('stem.')}
    checks.check_pretrained(begins_with(backbone, tmp_path / 'shallow.pth', part_of_state))
    assert 'it lacks 15 others' in output.pop(), 'few of all, but the whole stem'
    assert 'others, which keep their first values: ' in output[0]


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


def test_a_backbone_with_a_reader_of_its_own_is_not_random(tmp_path, backbone):
    """PIDNet, for one, looks for its names at the top of a file."""
    other_state = {name: value + 1 for name, value in backbone.state_dict().items()}
    checks.check_pretrained(begins_with(backbone, tmp_path / 'mine.pth', dict(state_dict=other_state)))
    with pytest.raises(ValueError, match=r'but ResNet\w* read \d+ of \d+: save its tensors alone'):
        checks.check_pretrained(backbone, loaded=True)
    whole = nn.ModuleDict(dict(backbone=backbone))
    whole.init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'whole.pth'))
    checks.check_pretrained(whole, loaded=True)
    backbone._is_init = False
    backbone.init_weights()
    checks.check_pretrained(backbone, loaded=True)
    torch.save(dict(state_dict=toys.build_plain(toys.seg_net('fcn'), seed=3).backbone.state_dict()), tmp_path / 'first')
    backbone.init_cfg = [dict(type='Pretrained', checkpoint=str(tmp_path / 'first')), backbone.init_cfg]
    checks.check_pretrained(backbone, loaded=True)


SWIN_NAMES = {
    'stages.': 'layers.',
    'attn.w_msa.': 'attn.',
    'ffn.layers.0.0.': 'mlp.fc1.',
    'ffn.layers.1.': 'mlp.fc2.',
    'embed.projection': 'embed.proj',
}


def swin(package, **options):
    sizes = dict(embed_dims=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1), window_size=2)
    network = toys.build_plain(dict(type=f'{package}.SwinTransformer', **sizes, **options))
    return network, {name: value + 1 for name, value in network.state_dict().items()}


def assert_read(network):
    """The network reads the file as the check does."""
    before = network.stages[0].blocks[0].ffn.layers[1].bias.clone()
    network.init_weights()
    assert torch.equal(network.stages[0].blocks[0].ffn.layers[1].bias, before + 1)
    checks.check_pretrained(network)


def test_mmdets_swin_renames_the_original_files(tmp_path):
    """``convert_weights=True``, in most of mmdet's configs: the check reads the file as the backbone does."""
    network, state = swin('mmdet', convert_weights=True)
    for key, original in SWIN_NAMES.items():
        state = {name.replace(key, original): value for name, value in state.items()}
    state['head.weight'] = torch.zeros(1)
    assert_read(begins_with(network, tmp_path / 'swin.pth', dict(model=state)))
    with pytest.raises(ValueError, match='fits 0 of the'):
        checks.check_pretrained(begins_with(network, tmp_path / 'swin.pth', dict(model=named('other.', state))))


@pytest.mark.parametrize(('package', 'whole'), [('mmseg', False), ('mmseg', True), ('mmdet', True)])
def test_swin_takes_its_file_out_of_what_holds_it_by_itself(tmp_path, package, whole):
    """Below `model`, or the backbone of a whole network."""
    network, state = swin(package)
    head = {'head.weight': torch.zeros(1)}
    content = dict(state_dict={**head, **named('backbone.', state)}) if whole else dict(model=state)
    assert_read(begins_with(network, tmp_path / 'swin.pth', content))
    assert checks.count_fitting(network, str(tmp_path / 'swin.pth'), None)[0] > 60


# The first step


NORMALIZE = dict(type='Normalize', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)
REFUSED = r"model\.teacher: mean and std of its .*train_dataloader\.dataset has \{'type': 'Normalize'"


def test_pictures_that_are_normalised_twice(tmp_path):
    """The student's data_preprocessor does not. Also those without labels, whose pipeline is another one."""
    plain = pair(dict(kd=KD), data_preprocessor=dict(mean=None, std=None, bgr_to_rgb=False))
    config = toys.run_config(tmp_path, plain)
    config.train_dataloader.dataset.pipeline.insert(3, NORMALIZE)
    runner = toys.make_runner(tmp_path, config)
    with pytest.raises(ValueError, match=REFUSED):
        runner.train()
    assert runner.iter == 0 and not list(tmp_path.glob('*.pth'))
    assert not runner.optim_wrapper.optimizer.state, 'no step was taken'
    report = check_config(config, Options(val=0))
    assert report.exit_code() == 2 and 'has {' in report.findings[-1].message, report.findings
    steps = [dict(type='LoadImageFromFile'), NORMALIZE, dict(type='PackSegInputs')]
    model = pair(dict(kd=KD), more=dict(data_root=toys.picture_folder(), pipeline=steps))
    with pytest.raises(ValueError, match=r'model\.teacher: mean and std of its'):
        toys.train(tmp_path, model, iters=2)


# A config that inherits a ready one neither writes over the other's run nor trains its methods unsaid


SWAP = "_base_ = 'base.py'\nmodel = dict(distillers=dict({}cwd=dict(type='CWD')))\n"


@pytest.fixture
def base(tmp_path):
    """A config with two distillers of a fragment, and its run of one iteration."""
    model = dict(type='mmdistill_dense.DistillModel', student=toys.seg_net(), teacher=toys.seg_teacher(), distillers={})
    toys.run_config(tmp_path / 'work', model, iters=2).dump(tmp_path / 'recipe.py')
    (tmp_path / 'fragment.py').write_text("distillers = {'kd': dict(type='LogitKD'), 'at': dict(type='AT')}\n")
    path = tmp_path / 'base.py'
    path.write_text("_base_ = ['recipe.py', 'fragment.py']\nmodel = dict(distillers=_base_.distillers)\n")
    return path


def run(path, **changes):
    config = Config.fromfile(path)
    config.merge_from_dict(changes)
    runner = Runner.from_cfg(config)
    runner.train()
    return runner


def test_the_run_of_another_config_is_not_written_over(base):
    """Runs of the same file may begin again and go on; others have a name of their own, or a damaged checkpoint."""
    run(base)
    file = base.parent / 'work/iter_2.pth'
    before = file.read_bytes()
    child = base.parent / 'mine.py'
    child.write_text(SWAP.format('_delete_=True, '))
    message = r"holds iter_2.pth of base.py, which this run of mine.py would .*work_dir='work_dirs/mine' in mine.py"
    torch.save({}, file.with_name('epoch_1.pth'))  # of no run
    with pytest.raises(ValueError, match=message):
        run(child)
    assert file.read_bytes() == before
    assert list(run(child, work_dir=str(base.parent / 'other')).model.distillers) == ['cwd']
    run(base)
    run(base, resume=True, **{'train_cfg.max_iters': 3})
    run(base, experiment_name='again')
    for file in (base.parent / 'work').glob('*.pth'):
        file.write_bytes(file.read_bytes().replace(b'experiment_name', b'experiment_\xff\xff\xff\xff'))
    run(base.rename(base.parent / 'renamed.py'))


def start_in_both(rank, folder, file):
    """Say in each process what it read of the checkpoint, and how it was refused."""
    rendezvous, read = join(rank, folder, ''), work_folder.read_checkpoint
    actual: list[object] = []
    work_folder.read_checkpoint = lambda *args, **more: actual.append([*args, more]) or read(*args, **more)
    config = mock.Mock(filename=file, get=lambda key: None)
    runner = mock.Mock(work_dir=str(rendezvous / 'work'), cfg=config, _resume=False)
    with pytest.raises(ValueError, match='of base.py, which this run of mine.py'):
        work_folder.refuse_another_run(runner)
    assert len(actual) == (rank == 0)
    (rendezvous / f'refused{rank}').touch()


def test_one_process_reads_for_all(tmp_path):
    file, value = tmp_path / 'work/iter_2.pth', torch.full((999,), 7.0)
    file.parent.mkdir()
    torch.save({'meta': {'experiment_name': 'base_20260101_000000'}, 'state_dict': {'a': value}}, file)
    raw = file.read_bytes()
    assert raw.count(value.numpy().tobytes()) == 1
    file.write_bytes(raw.replace(value.numpy().tobytes(), bytes(4 * 999)))  # its sum no longer fits
    start(start_in_both, str(tmp_path), 'mine.py')
    assert {path.name for path in tmp_path.glob('refused*')} == {'refused0', 'refused1'}


@pytest.mark.parametrize(('text', 'sources'), [
    (SWAP.format(''), 'of mine.py, the run trains what it inherits: kd (of fragment.py), at (of fragment.py).'),
    (SWAP.format('_delete_=True, '), None),
    ("_base_ = 'base.py'\nmodel = {'distillers': {'kd': {'temperature': 2}}}\n", None),
    ("_base_ = 'base.py'\n", None),
])  # fmt: skip
def test_distillers_that_are_trained_beside_ones_own_are_said(text, sources, base):
    child = base.parent / 'mine.py'
    child.write_text(text)
    findings = [finding.message for finding in run_rules.distiller_overrides(RunFacts(Config.fromfile(child)))]
    assert findings == ([f'model.distillers: beside cwd {sources}'] if sources else [])


@pytest.mark.parametrize(('base', 'folder_option', 'folder'), [
    ("work_dir = 'runs/{{ fileBasenameNoExtension }}'", '', 'runs/mine'),
    ("work_dir = 'runs/{{ fileBasenameNoExtension }}'", "work_dir = 'runs/base'", 'runs/base'),
    ("work_dir = 'here'", '', 'here'),
    ('', '', 'work_dirs/mine'),
])  # fmt: skip
def test_an_inherited_folder_follows_the_file_that_is_run(tmp_path, base, folder_option, folder):
    (tmp_path / 'base.py').write_text(f'x = 1\n{base}\n')
    (tmp_path / 'between.py').write_text("_base_ = 'base.py'\n")
    (tmp_path / 'mine.py').write_text(f"_base_ = 'between.py'\n{folder_option}\n")
    assert folder_of(Config.fromfile(tmp_path / 'mine.py')) == folder
