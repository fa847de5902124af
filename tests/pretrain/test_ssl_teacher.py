"""Self-supervised teachers: every family of files gives the map whose mean is its own head's output, or is refused."""

import argparse
import copy

import pytest
import torch

from mmdistill_dense.networks.taps import Tap
from mmdistill_dense.networks.teacher import FrozenTeacher
from mmdistill_dense.networks.trace import Traced
from mmdistill_dense.pretrain import SpatialAdaptor, SSLTeacher
from mmdistill_dense.pretrain.ssl_teacher import check_invariance, read_teacher
from mmdistill_dense.weights.ssl_layouts import LAYOUTS
from tests.pretrain import files

FAMILIES = list(files.NAMES)
ANEW = [f for f in FAMILIES if files.NAMES[f] != 'barlowtwins']
ANEW[4:] = [pytest.param(family, marks=pytest.mark.soak) for family in ANEW[4:]]
PATH = 'model.teacher.checkpoint'


def teacher_of(family, layout=None, **options):
    """A loaded teacher of a family's synthetic file, with the file's content and row."""
    content, row = files.synthetic(family)
    head = dict(widths=files.widths_of(below(content, row, 'use_head')))
    options = dict(layout=layout or files.NAMES[family], head=head, **options)
    teacher = SSLTeacher(files.R50, **options)
    teacher.load_teacher(files.saved(content), PATH)
    return teacher.eval(), content, row


def below(content, row, prefix):
    """Entries below a prefix of the row."""
    state = files.state_of(content, row)
    return {name.removeprefix(row[prefix]): v for name, v in state.items() if name.startswith(row[prefix])}


def refused(content, match, error=ValueError, **options):
    """Loading this content fails with these words."""
    options = dict(dict(layout='auto', head=dict(widths=[64, 20, 12])), **options)
    teacher = SSLTeacher(files.R50, **options)
    with pytest.raises(error, match=match):
        teacher.load_teacher(files.saved(content), PATH)


# Right files


@pytest.mark.sample(5)
@pytest.mark.parametrize('family', FAMILIES)
def test_mean_of_the_map_is_the_head_of_the_mean(family):
    maps = torch.randn(2, 64, 3, 2, dtype=torch.float64)
    for keep in (False, True)[: 1 + files.HEADS[family].endswith('bn0')]:
        teacher, content, row = teacher_of(family, keep_last_bn=keep)
        expected = files.vector_head(family, below(content, row, 'use_head'), last_bn=keep)(maps.mean((2, 3))).detach()
        for dtype, limit in ((torch.float64, 1e-13), (torch.float32, 1e-5)):
            actual = copy.deepcopy(teacher.head).to(dtype)(maps.to(dtype)).detach()
            assert actual.shape == (2, teacher.widths[-1], 3, 2), keep
            assert (actual.mean((2, 3)) - expected).abs().max() <= limit * expected.abs().max(), keep


@pytest.mark.sample(6)
@pytest.mark.parametrize('family', FAMILIES)
def test_auto_finds_the_layout(family):
    content, row = files.synthetic(family)
    file = read_teacher(files.saved(content))
    assert file.layout == files.NAMES[family] and len(file.backbone) == 318
    unused = len(files.state_of(content, row)) - 318 - len(below(content, row, 'use_head'))
    assert (len(file.head), file.ignored) == (len(below(content, row, 'use_head')), unused)


@pytest.mark.parametrize('family', ANEW)
def test_file_saved_anew_with_another_key_or_none_is_found(family, tmp_path):
    content, row = files.synthetic(family)
    state = {name.removeprefix('module.'): value for name, value in files.state_of(content, row).items()}
    pytest.importorskip('safetensors.torch').save_file(state, tmp_path / 'teacher.safetensors')
    for path in (files.saved(state), files.saved(dict(state_dict=state)), tmp_path / 'teacher.safetensors'):
        assert read_teacher(path).layout == files.NAMES[family]


def test_the_table_has_the_public_widths():
    for family, row in files.table()['layouts'].items():
        head = {name: shape for name, shape in row['other_keys'].items() if name.startswith(row['use_head'])}
        shapes = [head[name] for name in sorted(head) if len(head[name]) == 2]
        assert LAYOUTS[files.NAMES[family]].widths == (shapes[0][1], *(shape[0] for shape in shapes)), family
        assert shapes[-1][0] == row['out_dim']
    assert set(files.NAMES.values()) == set(LAYOUTS) - {'mocov3_vit'}, 'which tests/foundation tests'


def test_a_head_of_one_layer_without_number_is_read():
    v1 = {f'module.encoder_k.{n}': v for n, v in files.backbone().state_dict().items()}
    v1 |= {'module.encoder_k.fc.weight': torch.zeros(10, 64), 'module.encoder_k.fc.bias': torch.zeros(10)}
    assert list(read_teacher(files.saved(dict(state_dict=v1))).head) == ['0.weight', '0.bias'], "MoCo v1's"


def test_branch_chooses_the_weights():
    content, _ = files.synthetic('mocov3_r50')
    path = files.saved(content)
    momentum, online = read_teacher(path, branch='momentum'), read_teacher(path, branch='online')
    state = content['state_dict']
    for file, prefix in ((momentum, 'module.momentum_encoder.'), (online, 'module.base_encoder.')):
        assert torch.equal(file.backbone['conv1.weight'], state[f'{prefix}conv1.weight'])
        assert torch.equal(file.head['0.weight'], state[f'{prefix}fc.0.weight'])
    dino, _ = files.synthetic('dino_r50')
    other, _ = files.synthetic('dino_r50', seed=1)
    both = files.saved(dict(teacher=dino['teacher'], student=other['teacher']))
    solo = files.saved(files.synthetic('solo_byol_r50')[0])
    own, kept = (read_teacher(solo, branch=branch) for branch in ('online', 'momentum'))
    assert own.layout == 'solo' and not torch.equal(own.head['0.weight'], kept.head['0.weight'])
    for branch, one in (('momentum', dino), ('online', other)):
        weight = one['teacher']['module.head.mlp.0.weight']
        assert torch.equal(read_teacher(both, branch=branch).head['0.weight'], weight)
    with pytest.raises(ValueError, match="branch='online': files of layout 'swav' hold one branch"):
        read_teacher(files.saved(files.synthetic('swav_r50')[0]), branch='online')


def test_arguments_of_dino_are_read():
    content, _ = files.synthetic('dino_r50')
    arguments = argparse.Namespace(arch='resnet50', lr=0.1)
    assert read_teacher(files.saved(content | dict(args=arguments))).layout == 'dino'
    refused(content | dict(args=Foreign()), r'holds more than tensors.*Foreign.*could run code')


class Foreign:
    """A class that no checkpoint may hold."""


# Wrong files

MOCO, WIDTHS = 'module.momentum_encoder.', dict(widths=[64, 20, 12])


def bare(prefix='', **more):
    """A backbone alone, with other entries."""
    return {f'{prefix}{n}': v for n, v in files.backbone().state_dict().items()} | more


def moco(**entries):
    """A file of MoCo v3 with entries added, or without where they are None."""
    content, _ = files.synthetic('mocov3_r50')
    state = content['state_dict']
    for name, value in entries.items():
        for actual in [one for one in state if value is None and one.startswith(name)]:
            del state[actual]
        state.update({} if value is None else {name: value})
    return content


def of(family, without=None):
    content, row = files.synthetic(family)
    files.state_of(content, row).pop(without, None)
    return content


NONE = r'no file of one layout: it is of none of mocov3, .* Give the full .*teacher\.head=None'
WORDS = r"no file of layout='dino' with branch='momentum', which has entries backbone\.\* and head\.mlp\.\*: it is"
DINO = dict(layout='dino', head=dict(widths=[64, 10, 10, 12]))


@pytest.mark.sample(6)
@pytest.mark.parametrize(('content', 'words', 'options'), [
    (bare, NONE, {}),
    (lambda: dict(state_dict=bare('module.backbone.')), NONE, {}),
    (bare, WORDS, DINO),
    (lambda: dict(state_dict=bare('module.backbone.')), WORDS, DINO),
    (lambda: bare(**{'fc.weight': torch.zeros(9, 64)}), r'layer4, fc\. .* with its proj', {}),
    (lambda: dict(state_dict=bare('backbone.', **{'decode_head.conv_seg.weight': torch.zeros(3, 8, 1, 1)})),
     r'Prefixes in the file: backbone, decode_head\.', {}),
    (lambda: of('mocov2_r50'), r"no file of layout='mocov3' .* momentum_encoder\.\* and .* it looks like mocov2\.",
     dict(layout='mocov3')),
    (lambda: files.state_of(*files.synthetic('barlowtwins_r50')), 'it looks like barlowtwins or solo_single', {}),
    (moco, r'widths \[64, 20, 12\], \[64, 24, 12\] were expected: set teacher.head=dict\(widths=\[64, 20, 12\]\)',
     dict(head=dict(widths=[64, 24, 12]))),
    (moco, r'widths \[64, 20, 12\], \[64, 8, 8, 12\] were expected', dict(head=dict(widths=[64, 8, 8, 12]))),
    (lambda: dict(a=torch.zeros(1), b=torch.zeros(1)), r'it is of none of mocov3, .*Prefixes in the file: a, b\.', {}),
    (lambda: moco(**{'module.teacher_queue': torch.zeros(3)}),
     r"layout 'mocov3', which has no place for teacher_queue.*teacher.ignore", {}),
    (lambda: of('mocov2_r50', without='module.encoder_k.fc.0.bias'),
     r"head of layout 'mocov2' is 'linear\+ act linear\+'.*the file has 'linear act linear\+'",
     dict(head=dict(widths=[64, 64, 10]))),
    (lambda: of('swav_r50'), "Write layout='swav'", dict(head=dict(widths=[64, 64, 10]))),
])  # fmt: skip
def test_files_that_do_not_fit_are_named(content, words, options):
    refused(content(), words, **options)


@pytest.mark.parametrize('layout', ['mocov2', 'auto'])
def test_a_file_of_the_online_branch_alone_is_read_as_that(layout):
    """MoCo v2's published file is one."""
    content, row = files.synthetic('mocov2_r50')
    state = files.state_of(content, row)
    part = dict(state_dict={name: tensor for name, tensor in state.items() if name.startswith('module.encoder_q.')})
    options = dict(layout=layout, head=dict(widths=files.widths_of(below(content, row, 'use_head'))))
    advice = "branch='online'" if layout == 'mocov2' else "layout='mocov2' and teacher.branch='online'"
    refused(part, f'has the branch of mocov2 that was trained by gradient: set teacher.{advice}', **options)
    file = read_teacher(files.saved(part), layout, 'online')
    assert file.layout == 'mocov2' and len(file.backbone) == 318 and file.ignored == 0
    assert torch.equal(file.head['0.weight'], state['module.encoder_q.fc.0.weight'])


def test_a_layout_that_is_named_decides_between_two():
    state = files.state_of(*files.synthetic('barlowtwins_r50'))
    assert read_teacher(files.saved(state), 'barlowtwins').layout == 'barlowtwins'


@pytest.mark.parametrize(('name', 'shape', 'message'), [
    ('layer3.5.bn2.running_var', None, r'1 missing.*\n.*layer3.5.bn2.running_var'),
    ('fc.4.', None, "the file has 'linear bn act linear'"),
    ('extra.weight', (4, 12), r'1 unexpected.*\n.*extra.weight'),
    ('fc.note', (4, 12), r"head entry 0 is neither.*'note': \(4, 12\)"),
])  # fmt: skip
def test_changed_entries_are_named(name, shape, message):
    refused(moco(**{f'{MOCO}{name}': None if shape is None else torch.zeros(shape)}), message)


def test_entries_can_be_ignored_by_the_user():
    content = moco(**{'module.teacher_queue': torch.zeros(3)})
    teacher = SSLTeacher(files.R50, 'auto', WIDTHS, ignore=['teacher_queue'])
    assert teacher.load_teacher(files.saved(content)) == (318 + 7, len(content['state_dict']) - 325)
    refused(moco(**{f'{MOCO}fc.3.weight': torch.full((12, 20), float('nan'))}), 'broken weights', RuntimeError)


# Options


@pytest.mark.parametrize(('options', 'message'), [
    (dict(layout='moco'), "layout must be one of 'auto'"),
    (dict(branch='ema'), 'branch must be one of'),
    (dict(layout='auto'), r'set head=dict\(widths=\[2048'),
    (dict(layout='solo'), r"layout='solo' does not tell the widths"),
    (dict(layout='backbone'), 'set head=None'),
    (dict(layout='mocov3', head=dict(width=3)), "head must be 'layout'"),
    (dict(layout='mocov3', head=dict(widths=[3])), "head must be 'layout'"),
])  # fmt: skip
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        SSLTeacher(files.R50, **options)


def test_wrong_backbone_for_the_head_is_named():
    with pytest.raises(ValueError, match=r'the head takes 2048 channels and the backbone gives 64'):
        SSLTeacher(files.R50, 'mocov3').eval()(torch.zeros(1, 3, 32, 32))


def test_swav_has_its_own_normalisation():
    assert SSLTeacher(files.R50, 'swav').preprocessor['std'] == [58.14, 57.12, 57.375]
    assert SSLTeacher(files.R50, 'mocov3').preprocessor['std'] == [58.395, 57.12, 57.375]
    assert SSLTeacher(files.R50, 'swav', data_preprocessor=dict(mean=[0, 0, 0])).preprocessor == dict(mean=[0, 0, 0])


# As a teacher of a student


def frozen(layout='mocov3', family='mocov3_r50', taps=('head',), renormalise=None, as_trained=False, **options):
    """A loaded FrozenTeacher; ``stop_after`` as the trace of these taps would set it."""
    content, row = files.synthetic(family)
    option = dict(
        type='mmdistill_dense.SSLTeacher', backbone=files.R50, layout=layout, checkpoint=files.saved(content),
        **dict(dict(head=dict(widths=files.widths_of(below(content, row, 'use_head')))), **options),
    )  # fmt: skip
    plan = Traced([Tap.parse(tap) for tap in taps], len(taps), as_trained=as_trained, renormalise=renormalise)
    teacher = FrozenTeacher(option, plan)
    teacher.load(torch.zeros(1))
    return teacher


def test_each_view_is_recorded_in_order():
    teacher = frozen(taps=('head', 'backbone[-1]'))
    views = [torch.randn(2, 3, 64, 64), torch.randn(2, 3, 96, 64)]
    recorded = teacher(views)
    assert [t.shape for t in recorded['head']] == [(2, 12, 2, 2), (2, 12, 3, 2)]
    assert [t.shape for t in recorded['backbone[-1]']] == [(2, 64, 2, 2), (2, 64, 3, 2)]
    for view, actual in zip(views, recorded['head'], strict=True):
        assert torch.equal(teacher(view)['head'][0], actual)
    assert not recorded['head'][0].requires_grad


def test_norms_of_a_head_made_for_its_file_use_their_statistics():
    """The traced head may have had another layer in the place of a norm."""
    images = torch.randn(2, 3, 64, 64)
    (expected,), (actual,) = frozen()(images)['head'], frozen(as_trained=True)(images)['head']
    assert torch.equal(actual, expected)
    network = frozen().network
    assert not any(module.training for module in network.modules()) and not network.head.train().training
    assert not any(p.requires_grad for p in network.parameters())


def test_a_bare_file_gives_its_backbone():
    torch.manual_seed(3)
    backbone = files.backbone()
    state = backbone.state_dict()
    whole = {f'backbone.{n}': v for n, v in state.items()} | {'decode_head.conv_seg.weight': torch.zeros(3, 8, 1, 1)}
    ssl = {f'{MOCO}{n}': v for n, v in state.items()}
    ssl |= {n: v for n, v in moco()['state_dict'].items() if 'momentum_encoder.fc' in n}
    images = torch.randn(1, 3, 64, 64)
    for content in (state, dict(state_dict=whole), state | {'fc.weight': torch.zeros(10, 64)}, dict(state_dict=ssl)):
        for layout in ('auto',) if content.get('state_dict') is ssl else ('auto', 'backbone'):
            teacher = SSLTeacher(files.R50, layout, head=None)
            teacher.load_teacher(files.saved(content))
            assert torch.equal(teacher.eval()(images), backbone(images)[-1])
    teacher.backbone = torch.nn.Identity()
    assert teacher(images) is images, 'a backbone may give a map and no tuple'


# SpatialAdaptor: exact for every depth, width, size and activation


DEEP = 'linear+ bn act linear+ bn act linear bn'


def random_head(form, widths, activation='relu', seed=0):
    """A vector head of torch's modules in double, and its entries."""
    torch.manual_seed(seed)
    kinds = enumerate(form.replace('act', activation).split())
    head = files.modules_of(' '.join(f'{index}:{kind}' for index, kind in kinds), widths).eval()
    for name, tensor in head.state_dict().items():
        files.fill(name, tensor)
    return head, head.state_dict()


def test_a_last_batch_norm_with_parameters_is_always_kept():
    _, entries = random_head('linear bn act linear bn', [4, 5, 3])
    assert len(SpatialAdaptor.from_entries(entries).layers) == 5


def test_it_stays_frozen_in_eval_mode():
    _, entries = random_head('linear bn act linear', [16, 32, 8])
    adaptor = SpatialAdaptor.from_entries(entries).train()
    x = torch.randn(2, 16, 3, 3, dtype=torch.float64)
    before = adaptor(x)
    entries['0.weight'].zero_()
    assert torch.equal(adaptor(x), before) and not any(module.training for module in adaptor.modules())
    assert not any(parameter.requires_grad for parameter in adaptor.parameters())
    check_invariance(adaptor.half(), 'a file in half precision is not broken')


@pytest.mark.parametrize(('entries', 'message'), [
    ({}, 'no head entries'),
    ({'weight': torch.zeros(2, 2)}, 'not <index>.<parameter>'),
    ({'1.weight': torch.zeros(2, 2)}, 'missing.*before the first layer'),
    ({'0.weight': torch.zeros(2, 2), '3.weight': torch.zeros(2, 2)}, 'entries 1 to 2 are missing'),
    ({'0.weight': torch.zeros(2, 2, 1, 1)}, 'neither a linear layer nor a complete batch norm'),
    ({'0.running_mean': torch.zeros(2), '0.running_var': torch.zeros(2)}, 'no linear layer'),
    ({'0.weight': torch.zeros(2, 3), '1.weight': torch.zeros(4, 3)}, 'takes 3 channels, the one before gives 2'),
    ({'0.weight': torch.zeros(2, 3), '0.bias': torch.zeros(3)}, r'bias\[3\] at 2 channels'),
    ({'0.weight': torch.zeros(2, 3), '1.running_mean': torch.zeros(2)}, 'running_var is missing'),
    (dict.fromkeys(('0.running_mean', '0.running_var', '0.gain'), torch.ones(2)), 'gain is not part'),
    (dict.fromkeys(('0.running_mean', '0.running_var', '0.weight'), torch.ones(2)), 'bias is missing'),
])  # fmt: skip
def test_broken_entries_are_refused(entries, message):
    with pytest.raises(ValueError, match=message):
        SpatialAdaptor.from_entries(entries)


def test_other_channels_are_refused():
    with pytest.raises(ValueError, match='takes 3 channels and the backbone gives 4'):
        SpatialAdaptor.from_entries({'0.weight': torch.zeros(2, 3)})(torch.zeros(1, 4, 2, 2))


@pytest.mark.parametrize('activation', files.ACTIVATIONS)
def test_an_adapted_head_is_exact_and_one_for_each_pixel_is_the_vector_head_there(activation):
    """An adapted head has the right mean. One for each pixel (PCD's ablation) is right at each pixel alone."""
    head, entries = random_head(DEEP, [5, 7, 6, 4], activation)
    x = torch.randn(2, 5, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    exact, each = (SpatialAdaptor.from_entries(entries, activation, per_pixel=flag) for flag in (False, True))
    pooled = head(x.mean((2, 3)))
    for actual in (exact(x).mean((2, 3)), exact.vector(x.mean((2, 3)))):
        torch.testing.assert_close(actual, pooled, rtol=1e-12, atol=1e-13)
    expected = head(x.movedim(1, -1).flatten(0, 2)).view(2, 3, 4, -1).movedim(-1, 1)
    torch.testing.assert_close(each(x), expected)
    assert not torch.allclose(each(x).mean((2, 3)), pooled)
