"""Names of tensors in files, on every road that reads one: the tensors of the bare file, or a refusal."""

import copy
import functools
import itertools
import re
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import IterBasedTrainLoop
from mmengine.runner.checkpoint import _load_checkpoint, _load_checkpoint_to_model
from torch import nn

from mmdistill_dense.apps.export.write_student import load_student
from mmdistill_dense.config.resolve import load_model
from mmdistill_dense.foundation.foundation_teacher import FoundationTeacher, VisionTransformer
from mmdistill_dense.guards.config import check_pretrained
from mmdistill_dense.guards.runner import check_loaded
from mmdistill_dense.networks.teacher import FrozenTeacher
from mmdistill_dense.pretrain.ssl_teacher import SSLTeacher
from mmdistill_dense.weights import strict_load
from mmdistill_dense.weights.mmengine_loader import install_reader
from mmdistill_dense.weights.strict_load import load_strictly, read_checkpoint, state_dict_of
from tests import toys
from tests.foundation import files

OPTION = toys.seg_net('fcn')
MODEL = load_model(OPTION, 'model').model
BACKBONE = dict(MODEL.backbone, type='mmseg.ResNetV1c')
VIT = files.tiny('dinov2', depth=4)


@functools.cache
def network():
    install_reader()
    return toys.build_plain(OPTION)


@functools.cache
def weights():
    """The tensors of a file, each another than in a new network."""
    return {name: tensor + 1 for name, tensor in network().state_dict().items()}


def saved(content):
    path = str(toys.fresh_dir() / 'weights.pth')
    torch.save(content, path)
    return path


# Roads: each returns the tensors of the network that read the file


def by_teacher(path):
    teacher = FrozenTeacher(toys.seg_net('fcn', checkpoint=path))
    teacher.load(torch.zeros(1))
    return teacher.network.state_dict()


def by_run(path, student=None, **options):
    """The guard of a run, then mmengine."""
    init_default_scope('mmseg')
    student, content = student or copy.deepcopy(network()), _load_checkpoint(path, 'cpu')
    parts = dict(_resume=False, _train_loop=IterBasedTrainLoop.__new__(IterBasedTrainLoop))
    check_loaded(SimpleNamespace(**dict(parts, model=student, _load_from=path, **options)), content)
    _load_checkpoint_to_model(student, content)
    return student.state_dict()


def by_init_cfg(path, prefix='backbone'):
    """Checked before and after, as a run does."""
    init_default_scope('mmseg')
    student = nn.Module()
    file = dict(type='Pretrained', checkpoint=path, prefix=prefix)
    student.backbone = MODELS.build(dict(BACKBONE, init_cfg=file))
    check_pretrained(student)
    student.backbone.init_weights()
    check_pretrained(student, loaded=True)
    return student.state_dict()


def by_predict(path):
    """Export, whole graphs and reports read a student so, too."""
    return load_student(Config(dict(model=MODEL, default_scope='mmseg')), path)[1].state_dict()


def by_ssl_teacher(path):
    teacher = SSLTeacher(BACKBONE, layout='backbone', head=None)
    teacher.load_teacher(path)
    return teacher.state_dict()


def by_inherit(path):
    parts = [(part, part) for part in ('backbone', 'decode_head', 'auxiliary_head')]
    option = toys.model_config(OPTION, toys.seg_net('fcn', checkpoint=path), inherit=parts)
    return toys.ready(toys.build(option)).state_dict()


ROADS = {
    'teacher': by_teacher,
    'load_from': by_run,
    'resume': functools.partial(by_run, _resume=True),
    'test': functools.partial(by_run, _train_loop=None),
    'init_cfg': by_init_cfg,
    'predict': by_predict,
    'ssl_teacher': by_ssl_teacher,
    'inherit': by_inherit,
}


def inside(wrapper):
    """Put a wrapper around the third level of a network, as FSDP does with blocks."""
    return lambda name: re.sub(r'^((?:[^.]+\.){3})(?=.*\.)', rf'\1{wrapper}.', name)


NAMES = {
    'ddp': 'module.{}'.format,
    'average of ddp': 'module.module.{}'.format,
    'compiled ddp': '_orig_mod.module.{}'.format,
    'ddp of compiled': 'module._orig_mod.{}'.format,
    **{wrapper: inside(wrapper) for wrapper in ('_orig_mod', '_checkpoint_wrapped_module', '_fsdp_wrapped_module')},
    'both': lambda name: inside('_fsdp_wrapped_module._checkpoint_wrapped_module')(f'_fsdp_wrapped_module.{name}'),
}


def differing(tensors, state):
    """The names of a state whose tensors are not those of a file."""
    return [name for name, tensor in tensors.items() if name in state and not torch.equal(tensor, state[name])]


def each_in_turn(forms):
    """Give the tensors of one file the names of all forms in turn."""
    turns = itertools.cycle(forms)
    return lambda name: next(turns)(name)


@pytest.mark.parametrize('rename', [
    pytest.param(each_in_turn(NAMES.values()), id='each'),
    *(pytest.param(rename, id=form, marks=pytest.mark.soak) for form, rename in NAMES.items()),
])  # fmt: skip
@pytest.mark.parametrize('read', ROADS.values(), ids=ROADS)
def test_wrapped_names_are_read(read, rename):
    """But for a leading ``module.`` where mmengine compares a prefix: that is part of it, as in files of MoCo."""
    renamed = {rename(name): tensor for name, tensor in weights().items()}
    if read is by_init_cfg:
        renamed = {re.sub(r'(?<![^.])module\.', '', name): tensor for name, tensor in renamed.items()}
        read = by_init_cfg if renamed.keys() - weights().keys() else pytest.skip('the names of the bare file')
    assert len(renamed.keys() - weights().keys()) > 70
    state = read(saved(dict(state_dict=renamed)))
    assert len(state.keys() & weights().keys()) > 70 and not differing(weights(), state)


@pytest.mark.parametrize('prefix', ['module.encoder_q.', 'module.encoder_q', 'module.module', 'module.'])
def test_a_prefix_of_ddp_is_read(prefix):
    """mmengine finds it in the file as it is."""
    begin = f'{prefix.rstrip(".")}.'
    backbone = {name: tensor for name, tensor in weights().items() if name.startswith('backbone.')}
    renamed = {f'{begin}{name.removeprefix("backbone.")}': tensor for name, tensor in backbone.items()}
    state = by_init_cfg(
        saved(dict(state_dict={inside('_orig_mod')(name): tensor for name, tensor in renamed.items()})), prefix
    )
    assert state.keys() == backbone.keys() and not differing(backbone, state)


@pytest.mark.parametrize('read', ROADS.values(), ids=ROADS)
def test_other_prefixes_are_refused(read):
    with pytest.raises((ValueError, AssertionError), match='net'):
        read(saved(dict(state_dict={f'net.{name}': tensor for name, tensor in weights().items()})))


@pytest.mark.sample(2)
@pytest.mark.parametrize('read', ROADS.values(), ids=ROADS)
def test_two_networks_under_one_name_are_refused(read):
    """Equal tensors are one network."""
    double = {f'module.{name}': tensor for name, tensor in weights().items()}
    assert not differing(weights(), read(saved(dict(state_dict=weights() | double))))
    other = {name: tensor + 1 for name, tensor in double.items()}
    with pytest.raises(ValueError, match=r'weights\.pth.* holds another .* beside'):
        read(saved(dict(state_dict=weights() | other)))


def test_averages_to_go_on_from_are_told_of_the_file(tmp_path, monkeypatch):
    logged = []
    monkeypatch.setattr(strict_load, 'print_log', lambda text, *_: logged.append(text))
    (tmp_path / 'last_checkpoint').write_text('iter_4.pth')
    loop = IterBasedTrainLoop.__new__(IterBasedTrainLoop)
    runner = SimpleNamespace(model=network(), _load_from=None, _resume=True, _train_loop=loop, work_dir=str(tmp_path))
    check_loaded(runner, dict(state_dict=dict(weights()), ema=weights()))
    assert [text.split(':')[0] for text in logged] == ['iter_4.pth']


# Vision transformers


def vit_state():
    state = files.state('dinov2', 'original', depth=4)
    return {name: tensor for name, tensor in state.items() if name != 'mask_token'}


def by_foundation(path):
    teacher = FoundationTeacher(VIT)
    teacher.load_teacher(path)
    return teacher.state_dict()


def by_ssl_vit(path):
    teacher = SSLTeacher(dict(type='mmdistill_dense.VisionTransformer', model=VIT), layout='backbone', head=None)
    teacher.load_teacher(path)
    return teacher.backbone.state_dict()


def by_strict(path):
    vision_transformer = VisionTransformer(VIT)
    load_strictly(vision_transformer, state_dict_of(read_checkpoint(path), path), None, 'checkpoint')
    return vision_transformer.state_dict()


def by_start(path):
    """A student, whose optimizer may be new."""
    return by_run(path, VisionTransformer(VIT))


def chunked(size):
    return lambda name: re.sub(r'^blocks\.(\d+)', lambda match: f'blocks.{int(match[1]) // size}.{match[1]}', name)


CHUNKS = {
    **{f'chunks of {size}': chunked(size) for size in (1, 2, 4)},
    'uneven chunks': chunked(3),
    'wrapped chunks': lambda name: re.sub(r'(\d+\.\d+)\.', r'\1._fsdp_wrapped_module.', chunked(2)(name)),
}


@pytest.mark.sample(5)
@pytest.mark.parametrize('rename', CHUNKS.values(), ids=CHUNKS)
@pytest.mark.parametrize('read', [by_foundation, by_ssl_vit, by_strict, by_start])
def test_files_of_transformers_are_read(read, rename):
    expected = by_foundation(saved(vit_state()))
    renamed = {rename(name): tensor for name, tensor in vit_state().items()}
    for content in (renamed, dict(teacher={f'backbone.{name}': tensor for name, tensor in renamed.items()})):
        if 'teacher' not in content or read in (by_foundation, by_ssl_vit):
            assert len(expected) == 62 and not differing(expected, read(saved(content)))


def test_stages_are_no_chunks():
    """EfficientNet's blocks have two numbers as well, and some networks keep their chunks."""

    def stages(*counts):
        blocks = [nn.Sequential(*(nn.Linear(2, 2) for _ in range(count))) for count in counts]
        return nn.ModuleDict(dict(blocks=nn.Sequential(*blocks)))

    for stage in (stages(1, 2), stages(3), stages(2, 2)):
        state = {name: tensor + 1 for name, tensor in stage.state_dict().items()}
        load_strictly(stage, state, None, 'checkpoint')
        assert not differing(state, stage.state_dict())
    with pytest.raises(ValueError, match=r'missing: blocks\.1\.0'):
        load_strictly(stages(2, 2), stages(4).state_dict(), None, 'checkpoint')


def test_a_part_that_is_compiled_resumes():
    """The network has the wrapper's names, whether its file has them or not."""
    for rename in (str, lambda name: name.replace('backbone.', 'backbone._orig_mod.')):
        compiled = copy.deepcopy(network())
        compiled.backbone = torch.compile(compiled.backbone, backend='eager')
        path = saved(dict(state_dict={rename(name): tensor for name, tensor in weights().items()}))
        state = by_run(path, compiled, _resume=True)
        plain = {name.replace('_orig_mod.', ''): tensor for name, tensor in state.items()}
        assert not differing(weights(), plain) and plain.keys() == weights().keys()


def test_the_average_beside_a_teacher_is_left_out(tmp_path):
    """A training of DINOv3 holds both networks and the average by its own name."""
    live = {name: tensor + 1 for name, tensor in vit_state().items()}
    parts = {'student': live, 'model_ema': vit_state(), 'gram_teacher': live}
    content = {f'{part}.backbone.{name}': tensor for part, state in parts.items() for name, tensor in state.items()}
    assert not differing(by_foundation(saved(vit_state())), by_foundation(saved(dict(model=content))))
