"""The vision transformer gives what the original code gives, from files of original and timm names."""

import json
from pathlib import Path

import pytest
import torch

from mmdistill_dense.foundation.foundation_teacher import FoundationTeacher, VisionTransformer
from mmdistill_dense.foundation.vit import MODELS_BY_NAME, architecture
from mmdistill_dense.foundation.vit_file import SCHEMES, entries, load_vit
from mmdistill_dense.networks.recording import Recorder
from mmdistill_dense.networks.taps import Tap
from mmdistill_dense.pretrain import SSLTeacher
from mmdistill_dense.pretrain.spatial_adaptor import blank_entries
from mmdistill_dense.weights.strict_load import sha256
from tests import toys
from tests.foundation import files
from tests.toys import fresh_dir

GOLDEN = [line for line in (Path(__file__).parent / 'golden.txt').read_text().splitlines() if line[0] != '#']
MIDDLE = dict(dim=96, depth=3, heads=3)


def network(case='dinov2', **changes):
    """A small random network."""
    torch.manual_seed(0)
    teacher = FoundationTeacher(files.tiny(case, **changes))
    teacher.init_weights()
    return teacher.eval().requires_grad_(False)


def recorded(teacher, pictures, *taps):
    """The tensors at the taps, one for each."""
    recorder = Recorder(teacher, [Tap.parse(tap) for tap in taps], 'tap')
    with torch.no_grad(), recorder.recording() as tensors:
        teacher(pictures)
    return [tensors[tap][0] for tap in taps]


def filled(name):
    """A network of a golden case, its tensors filled by their original names."""
    family = dict(files.CASES, dinov3_nobias=dict(files.CASES['dinov3_swiglu'], qkv_bias=False))[name]
    teacher = FoundationTeacher(dict(family, **MIDDLE))
    for entry, view in entries(teacher, SCHEMES[0]).items():
        if not entry.endswith('periods'):
            view.copy_(files.fill(entry, view.shape))
    if teacher.shape.rotary and teacher.shape.qkv_bias:
        for block in teacher.blocks:
            block.attn.qkv.bias.data.chunk(3)[1].zero_()
    return teacher.eval().requires_grad_(False)


@pytest.mark.sample(6)
@pytest.mark.parametrize('line', GOLDEN, ids=lambda line: line.split(':')[0].replace(' ', '-'))
def test_values_are_those_of_the_original_code(line):
    case, values = line.split(': ')
    name, *size = case.split()
    actual = recorded(filled(name), files.picture(*map(int, size)), 'map', 'maps.1', 'cls')
    picked = [x.flatten()[torch.linspace(0, x.numel() - 1, n).long()] for x, n in zip(actual, (14, 3, 3), strict=True)]
    expected = torch.tensor([float(value) for value in values.split()])
    torch.testing.assert_close(torch.cat(picked), expected, atol=3e-5, rtol=0)


def test_maps_of_all_blocks():
    teacher = network(registers=4)
    taps = ('map', 'maps.1', 'maps.0', 'blocks.0', 'cls')
    whole, last, first, raw, cls = recorded(teacher, files.picture(42, 98), *taps)
    assert whole.shape == (1, 48, 3, 7) and cls.shape == (1, 48)
    assert torch.equal(whole, last) and not torch.equal(first, last)
    expected = teacher.norm(raw[:, 5:]).reshape(1, 3, 7, 48)
    torch.testing.assert_close(first, expected.permute(0, 3, 1, 2), rtol=0, atol=0)
    with pytest.raises(KeyError, match=r'no such module.*Modules in maps: 0, 1\.'):
        recorded(teacher, files.picture(42, 98), 'maps.2')


def test_maps_without_the_norm_are_tokens():
    raw = FoundationTeacher(files.tiny('dinov2', depth=4), norm=False)
    raw.load_state_dict(network(depth=4).state_dict())
    tokens, actual = recorded(raw.eval(), files.picture(28, 42), 'blocks.3', 'map')
    assert torch.equal(actual, tokens[:, 1:].mT.unflatten(2, (2, 3)))


def test_positions_are_kept_for_the_last_grids():
    teacher = network()
    for side in range(14, 14 * 20, 14):
        teacher(files.picture(28, side))
    assert len(teacher.cache.entries) == 16


CHANGES = {
    'half': lambda teacher: teacher.bfloat16(),
    'double': lambda teacher: teacher.double(),
    'half and back': lambda teacher: teacher.bfloat16().float(),
    'load': lambda teacher: teacher.load_state_dict(other(teacher)),
    'load in place of': lambda teacher: teacher.load_state_dict(other(teacher), assign=True),
}


def other(teacher):
    """A file's tensors of other positions."""
    state = teacher.state_dict()
    return state | {name: state[name] * 1.5 for name in ('pos_embed', 'rope.periods') if name in state}


@pytest.mark.parametrize('change', CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize('case', ['dinov2', 'dinov3'])
def test_positions_follow_a_cast_or_load(case, change):
    used, new = network(case=case), network(case=case)
    used(files.picture(64, 96))
    for teacher in (used, new):
        change(teacher)
    pictures = files.picture(64, 96).to(new.cls_token.dtype)
    assert torch.equal(used(pictures), new(pictures))


@pytest.mark.soak
@pytest.mark.parametrize('case', ['dinov2', 'dinov3'])
def test_a_graph_takes_any_number_of_pictures(case):
    """Positions that an attempt to make a graph computed are symbols, and would be of no use later."""
    teacher = network(case=case, registers=2)
    two, three = (torch.randn(count, 3, 64, 96) for count in (2, 3))
    batch = {0: torch.export.Dim.DYNAMIC}
    exported = torch.export.export(teacher, (two,), dynamic_shapes=(batch,)).module()
    traced = torch.jit.trace(teacher, two, check_trace=False)
    expected = teacher(three)
    for graph in (exported, traced):
        torch.testing.assert_close(graph(three), expected)


def test_a_trained_position_embedding_gets_gradient():
    teacher = network('dino').requires_grad_(True)
    teacher(files.picture(48, 64)).square().sum().backward()
    assert teacher.pos_embed.grad.abs().sum() > 0 and not teacher.cache.entries


def test_pictures_that_do_not_fit_are_refused():
    for shape in ((1, 3, 13, 40), (1, 1, 40, 40), (3, 40, 40)):
        with pytest.raises(ValueError, match=r'of 14 pixels or more, not'):
            network()(torch.zeros(shape))


def test_table_has_the_published_sizes():
    with torch.device('meta'):
        count = {
            name: sum(p.numel() for p in FoundationTeacher(name).parameters()) / 1e6
            for name in ('dino_vits16', 'dinov2_vits14_reg', 'mae_vitl16', 'dinov3_vits16plus', 'vit_tiny16')
        }
    published = dict(dino_vits16=22, dinov2_vits14_reg=22, mae_vitl16=304, dinov3_vits16plus=29, vit_tiny16=5.5)
    for name, millions in count.items():
        assert millions == pytest.approx(published[name], rel=0.02), name
    assert MODELS_BY_NAME['mocov3_vits16'].heads == 12
    assert (MODELS_BY_NAME['dinov3_vits16plus'].hidden, MODELS_BY_NAME['dinov2_vitg14'].hidden) == (1536, 4096)
    assert MODELS_BY_NAME['dinov3_vitl16_sat493m'].preprocessor['std'] == [54.315, 39.78, 36.465]


def test_a_file_of_a_model_for_other_pictures_is_refused(tmp_path):
    file = tmp_path / 'dinov3_vitl16_pretrain_sat493m-eadcf0ff.pth'
    with pytest.raises(ValueError, match='is of sat493m, whose pictures have another mean'):
        FoundationTeacher(files.tiny('dinov3')).load_teacher(file)
    with pytest.raises(FileNotFoundError):
        FoundationTeacher(files.tiny('dinov3'), data_preprocessor=dict(mean=[1.0] * 3)).load_teacher(file)


@pytest.mark.parametrize(('model', 'match'), [
    ('dinov2_s14', r"model='dinov2_s14' is no known vision transformer. Close: .*dinov2_vits14"),
    (dict(family='dinov2', dim=48), 'the first five required'),
    (files.tiny('dinov2', width=3), r'a dict of family, patch, .* got'),
    (files.tiny('dinov2', family='dinov4'), r"model.family must be one of 'dino', .*got 'dinov4'"),
    (files.tiny('dinov2', heads=5), r'model.dim must be a multiple of heads \(5\), got 48'),
    (files.tiny('dinov3', heads=8), r'multiple of 4 x heads, for the rotary positions \(32\), got 48'),
    (files.tiny('dinov2', native=5), r'model.native must be a list of 2, each member a whole number'),
    (files.tiny('dinov2', ffn='glu'), r"model.ffn must be one of 'mlp', 'swiglu', got 'glu'"),
    (files.tiny('dinov2', depth=0), r'model.depth must be a whole number >= 1, got 0'),
])  # fmt: skip
def test_wrong_descriptions_are_refused(model, match):
    with pytest.raises(ValueError, match=match):
        architecture(model)


MODEL = files.tiny('dino', family='mocov3')
WIDTHS = [48, 20, 20, 12]


def checkpoint():
    """A file of MoCo v3's ViT: both branches with heads, and a predictor."""
    content = {}
    for branch, shift in (('momentum_encoder', 0.0), ('base_encoder', 0.1)):
        for name, value in files.state('dino', 'original').items():
            content[f'module.{branch}.{name}'] = value + shift
        entries = blank_entries('linear bn act linear bn act linear bn0', WIDTHS)
        for name, value in entries.items():
            drawn = value if 'running' in name or value.ndim == 1 else files.fill(f'head.{name}.qkv', value.shape)
            content[f'module.{branch}.head.{name}'] = drawn
    content['module.predictor.0.weight'] = torch.zeros(3, 3)
    path = toys.fresh_dir() / 'vit.pth'
    torch.save(dict(state_dict=content, epoch=300), path)
    return str(path)


def test_the_heads_map_has_the_mean_of_the_vector_head():
    path, pictures, backbone = checkpoint(), files.picture(80, 112), dict(type='mmdistill_dense.VisionTransformer')
    options = (dict(backbone, model=MODEL), 'mocov3_vit', dict(widths=WIDTHS))
    teacher, online = (SSLTeacher(*options, branch=branch).eval() for branch in ('momentum', 'online'))
    for state in (teacher, online):
        assert state.load_teacher(path)[0] == len(state.state_dict())
    torch.testing.assert_close(online.backbone.cls_token, teacher.backbone.cls_token + 0.1)
    with torch.no_grad():
        actual, (tokens,) = teacher(pictures), teacher.backbone(pictures)
        expected = teacher.head.vector(tokens.mean((2, 3)))
    assert actual.shape == (1, 12, 5, 7) and tokens.shape == (1, 48, 5, 7)
    torch.testing.assert_close(actual.mean((2, 3)), expected, atol=1e-5, rtol=1e-5)


def test_it_returns_the_maps_that_were_asked_for():
    backbone = VisionTransformer(MODEL, out_blocks=(0, -1))
    backbone.init_weights()
    first, last = backbone.eval()(files.picture(32, 48))
    assert first.shape == last.shape == (1, 48, 2, 3) and not torch.equal(first, last)
    for blocks in ((2,), (), (-3, 0)):
        with pytest.raises(ValueError, match=r'out_blocks must hold blocks of 0 to 1, or -1, got'):
            VisionTransformer(MODEL, out_blocks=blocks)


# Files under original and timm names


PATH = 'model.teacher.checkpoint'
BY_TITLE = {scheme.title: scheme for scheme in SCHEMES}
# Entries of the public lists that are read and not used.
UNUSED = ('mask_token', 'local_cls_norm.', 'decoder')
MASK = 'bias_mask'


def blank(case, **changes):
    """A network without values."""
    return FoundationTeacher(files.tiny(case, **changes))


def loaded(case, content, **changes):
    """A network with the content of a file."""
    teacher = blank(case, **changes)
    load_vit(teacher, content, (), PATH)
    return teacher.eval().requires_grad_(False)


def refused(case, content, match, **changes):
    """Loading this content fails with these words."""
    with pytest.raises(ValueError, match=match):
        load_vit(blank(case, **changes), content, (), PATH)


def renamed(case, scheme, depth=2):
    """The original file of a case under the names of another scheme, by the public lists alone."""
    teacher = loaded(case, files.state(case, 'original', depth), depth=depth)
    content = {name: view.clone() for name, view in entries(teacher, BY_TITLE[scheme]).items()}
    if scheme == 'timm' and case == 'dinov2_reg':  # timm adds the position of the class token to it
        content['cls_token'] = content['cls_token'] + teacher.pos_embed[:, :1]
    state = files.state(case, scheme, depth)
    for name in state.keys() - content.keys():
        assert name.endswith(MASK) or name.startswith(UNUSED), name
        content[name] = state[name]
    assert {name: tuple(value.shape) for name, value in content.items()} == files.shapes(case, scheme, depth)
    return content


@pytest.mark.sample(5)
@pytest.mark.parametrize(('case', 'scheme'), files.SECTIONS)
def test_all_schemes_give_equal_maps(case, scheme):
    original = loaded(case, files.state(case, 'original'))
    other = loaded(case, renamed(case, scheme))
    pictures = files.picture(80, 112)
    assert torch.equal(other(pictures), original(pictures))
    for name, tensor in other.state_dict().items():
        if not (scheme == 'timm' and case == 'dinov2_reg' and name in ('cls_token', 'pos_embed')):
            assert torch.equal(tensor, original.state_dict()[name]), name


def test_queries_keys_and_values_stand_in_this_order():
    content = renamed('dinov3', 'timm')
    qkv = loaded('dinov3', content).blocks[0].attn.qkv
    bias = content['blocks.0.attn.q_bias'], torch.zeros(48), content['blocks.0.attn.v_bias']
    assert torch.equal(qkv.bias, torch.cat(bias))
    for scheme, halves in {'original': ('w1', 'w2'), 'timm': ('fc1_g', 'fc1_x')}.items():
        gates = renamed('dinov3_swiglu', scheme)
        expected = torch.cat([gates[f'blocks.1.mlp.{half}.weight'] for half in halves])
        assert torch.equal(loaded('dinov3_swiglu', gates).blocks[1].mlp.w12.weight, expected)


@pytest.mark.sample(5)
@pytest.mark.parametrize(('case', 'scheme'), files.SECTIONS)
def test_each_damaged_entry_is_named(case, scheme):
    """Each entry of a network of one block, but those that are not used: without it, under another name, reshaped."""
    content, teacher = renamed(case, scheme, depth=1), blank(case, depth=1)
    used = [n for n in content if not n.startswith(UNUSED)]
    assert len(used) > 15
    for name in used:
        value, state = content[name], {key: value for key, value in content.items() if key != name}
        for damaged in (state, {**state, f'{name}x': value}, {**content, name: torch.cat([value, value], -1)}):
            with pytest.raises(ValueError) as error:
                load_vit(teacher, damaged, (), PATH)
            # Without reg_token, which is timm's only name of its own there, the names are the original ones.
            lost = (case, name) == ('dinov2_reg', 'reg_token') and name not in damaged
            assert ('register_tokens' if lost else name) in str(error.value), name


def test_masks_of_key_biases_are_checked():
    content = files.state('dinov3', 'original')
    bias = loaded('dinov3', content).blocks[0].attn.qkv.bias.chunk(3)
    assert bias[0].abs().sum() > 0 and bias[1].abs().sum() == 0 and bias[2].abs().sum() > 0
    name = f'blocks.1.attn.qkv.{MASK}'
    for wrong in (torch.full((144,), float('nan')), torch.ones(144)):
        refused('dinov3', {**content, name: wrong}, rf'{name} is not 1 for queries and values and 0 for keys')


def test_periods_are_the_files_where_they_are_rounded():
    content = files.state('dinov3', 'original')
    rounded = content['rope_embed.periods'].bfloat16()
    actual = loaded('dinov3', {**content, 'rope_embed.periods': rounded}).rope.periods
    assert torch.equal(actual, rounded.float()) and not torch.equal(actual, content['rope_embed.periods'])
    refused('dinov3', {**content, 'rope_embed.periods': rounded * 1.5}, 'of other rotary positions')


@pytest.mark.parametrize(('top', 'prefix', 'beside', 'text'), [
    ('teacher', 'module.backbone.', 'module.head.last_layer.weight_g', 'teacher, backbone'),
    ('model', '', 'decoder_blocks.0.norm1.weight', 'model'),
    ('state_dict', 'module.', None, 'original names)'),
    (None, '', 'head.weight', 'original names)'),
])  # fmt: skip
def test_branches_of_a_file(top, prefix, beside, text):
    content = {f'{prefix}{name}': value for name, value in files.state('dino', 'original').items()}
    if beside:
        content[beside] = torch.zeros(3)
    whole = content if top is None else {top: content, 'student': {'other': torch.zeros(1)}, 'epoch': 3}
    ignored, source = load_vit(blank('dino'), whole, (), PATH)
    assert text in source and ignored == bool(beside)


def test_a_file_of_moco_v3_asks_for_a_model_of_mocov3():
    branches = {f'module.momentum_encoder.{name}': value for name, value in files.state('dino', 'original').items()}
    refused('dino', dict(state_dict=branches), r'is a file of MoCo v3 \(momentum_encoder\.\*\).*name a model of mocov3')


def original(case='dinov3', **more):
    return {**files.state(case, 'original'), **more}


def behind(prefix):
    """As transformers' files, whatever stands in front of the embeddings."""
    return {f'{prefix}embeddings.cls_token': torch.zeros(1, 1, 48), 'layer.0.norm1.weight': torch.zeros(48)}


FOLDER = "transformers names has left: give the file's folder as model='transformers::FOLDER'"


@pytest.mark.parametrize(('case', 'content', 'match', 'changes'), [
    ('dinov2_reg', lambda: original('dinov2'), r'missing: register_tokens', {}),
    ('dinov2', lambda: original('dinov2'), r'pos_embed', dict(native=(7, 7))),
    ('dinov2', original, r'unexpected: storage_tokens', {}),
    ('dino', lambda: {'head.mlp.0.weight': torch.zeros(1)}, r'holds no vision transformer.* begin with head', {}),
    ('dino', lambda: {'conv1.weight': torch.zeros(1)}, 'holds no vision .*give the file of the backbone', {}),
    ('dinov3', lambda: original(reg_token=torch.zeros(1, 4, 48)),
     r'are those of original and timm, one scheme was expected: .*reg_token', {}),
    ('dinov3', lambda: behind(''), FOLDER, {}),
    ('dinov3', lambda: behind('vit.'), FOLDER, {}),
    ('dinov3', lambda: loaded('dinov3', original()).state_dict(),
     'a training with this package: write the public ones by .*--backbone-only', {}),
])  # fmt: skip
def test_files_that_do_not_fit_are_refused_with_the_reason(case, content, match, changes):
    refused(case, content(), match, **changes)


def test_entries_of_other_parts_need_to_be_ignored():
    content = {**files.state('dinov3', 'original'), 'projectors.0.weight': torch.zeros(1)}
    refused('dinov3', content, r'unexpected: projectors.0.weight')
    teacher = FoundationTeacher(files.tiny('dinov3'), ignore=['projectors.'])
    assert load_vit(teacher, content, teacher.ignore, PATH)[0] == 2, 'and the mask token'
    with pytest.raises(TypeError, match='ignore is a list of prefixes'):
        FoundationTeacher(files.tiny('dinov3'), ignore='projectors.')


def test_files_are_read_in_parts_too():
    save = pytest.importorskip('safetensors.torch').save_file
    content, folder = files.state('dinov2_reg', 'original'), fresh_dir()
    torch.save(content, folder / 'a.pth')
    save(content, folder / 'a.safetensors')
    names = list(content)
    parts = {'a-1.safetensors': names[:9], 'a-2.safetensors': names[9:]}
    for name, inside in parts.items():
        save({name: content[name] for name in inside}, folder / name)
    file_of_name = {one: name for name, inside in parts.items() for one in inside}
    index = folder / 'a.safetensors.index.json'
    index.write_text(json.dumps(dict(metadata={}, weight_map=file_of_name)))
    whole = sha256(index)
    for name in ('a.pth', 'a.safetensors', index.name):
        teacher = blank('dinov2_reg')
        assert teacher.load_teacher(folder / name, PATH) == (len(teacher.state_dict()), 1)
        assert teacher.source.endswith('(original names)')
        assert torch.equal(teacher.register_tokens, content['register_tokens'])
    save({name: content[name] for name in names[10:]}, folder / 'a-2.safetensors')
    with pytest.raises(ValueError, match=rf'a-2.safetensors holds other .* lists: {names[9]} and 0 more'):
        blank('dinov2_reg').load_teacher(index, PATH)
    assert sha256(index) != whole, 'the receipt tells files of other contents apart'
    index.write_text(json.dumps(dict(weight_map={'a': '../a.safetensors'})))
    with pytest.raises(ValueError, match="'../a.safetensors' is no .safetensors file beside it"):
        blank('dinov2_reg').load_teacher(index, PATH)
    index.write_text(json.dumps(dict(weight_map={'a': 'b.safetensors'})))
    with pytest.raises(FileNotFoundError, match='b.safetensors'):
        blank('dinov2_reg').load_teacher(index, PATH)
