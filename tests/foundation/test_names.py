"""Files under original and timm names load to equal networks; damaged ones are refused by name."""

import json

import pytest
import torch

from mmdistill_dense.foundation.foundation_teacher import FoundationTeacher
from mmdistill_dense.foundation.vit_file import SCHEMES, entries, load_vit
from mmdistill_dense.weights.strict_load import sha256
from tests.foundation import files
from tests.toys import fresh_dir

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
    given = files.state(case, scheme, depth)
    for name in given.keys() - content.keys():
        assert name.endswith(MASK) or name.startswith(UNUSED), name
        content[name] = given[name]
    assert {name: tuple(value.shape) for name, value in content.items()} == files.shapes(case, scheme, depth)
    return content


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
    gates = renamed('dinov3_swiglu', 'original')
    w12 = loaded('dinov3_swiglu', gates).blocks[1].mlp.w12.weight
    assert torch.equal(w12, torch.cat([gates['blocks.1.mlp.w1.weight'], gates['blocks.1.mlp.w2.weight']]))


@pytest.mark.parametrize(('case', 'scheme'), files.SECTIONS)
def test_each_damaged_entry_is_named(case, scheme):
    """Each entry of a network of one block, but those that are not used: without it, under another name, reshaped."""
    content, teacher = renamed(case, scheme, depth=1), blank(case, depth=1)
    used = [n for n in content if not n.startswith(UNUSED)]
    assert len(used) > 15
    for name in used:
        value, others = content[name], {one: value for one, value in content.items() if one != name}
        for damaged in (others, {**others, f'{name}x': value}, {**content, name: torch.cat([value, value], -1)}):
            with pytest.raises(ValueError) as error:
                load_vit(teacher, damaged, (), PATH)
            # Without reg_token, which is timm's only name of its own there, the names are the original ones.
            lost = (case, name) == ('dinov2_reg', 'reg_token') and name not in damaged
            assert ('register_tokens' if lost else name) in str(error.value), name


def test_masks_of_key_biases_are_applied_and_checked():
    content = files.state('dinov3', 'original')
    bias = loaded('dinov3', content).blocks[0].attn.qkv.bias.chunk(3)
    assert bias[0].abs().sum() > 0 and bias[1].abs().sum() == 0 and bias[2].abs().sum() > 0
    name = f'blocks.1.attn.qkv.{MASK}'
    for wrong in (torch.full((144,), float('nan')), torch.ones(144)):
        refused('dinov3', {**content, name: wrong}, rf'{name} is not 1 for queries and values and 0 for keys')


def test_keys_have_no_bias_in_a_network_that_no_file_has_filled():
    """Frozen as in training: a student from random weights that becomes a teacher stays the same network."""
    network, picture = blank('dinov3').eval(), files.picture(48, 64)
    trained = network(picture)
    assert trained.requires_grad and torch.equal(network.requires_grad_(False)(picture), trained)


def test_periods_are_the_files_where_they_are_rounded():
    content = files.state('dinov3', 'original')
    rounded = content['rope_embed.periods'].bfloat16()
    found = loaded('dinov3', {**content, 'rope_embed.periods': rounded}).rope.periods
    assert torch.equal(found, rounded.float()) and not torch.equal(found, content['rope_embed.periods'])
    refused('dinov3', {**content, 'rope_embed.periods': rounded * 1.5}, 'of other rotary positions')


@pytest.mark.parametrize(('top', 'prefix', 'beside', 'told'), [
    ('teacher', 'module.backbone.', 'module.head.last_layer.weight_g', 'teacher, backbone'),
    ('model', '', 'decoder_blocks.0.norm1.weight', 'model'),
    ('state_dict', 'module.', None, 'original names)'),
    (None, '', 'head.weight', 'original names)'),
])  # fmt: skip
def test_branches_and_what_lies_beside_them(top, prefix, beside, told):
    content = {f'{prefix}{name}': value for name, value in files.state('dino', 'original').items()}
    if beside:
        content[beside] = torch.zeros(3)
    whole = content if top is None else {top: content, 'student': {'other': torch.zeros(1)}, 'epoch': 3}
    ignored, source = load_vit(blank('dino'), whole, (), PATH)
    assert told in source and ignored == bool(beside)


def test_both_branches_of_moco_v3():
    state = files.state('dino', 'original')
    branches = {f'module.momentum_encoder.{name}': value for name, value in state.items()}
    branches |= {f'module.base_encoder.{name}': value + 1 for name, value in state.items()}
    branches |= {'module.momentum_encoder.head.0.weight': torch.zeros(1), 'module.predictor.0.weight': torch.zeros(1)}
    teacher = blank('dino', family='mocov3')
    ignored, source = load_vit(teacher, dict(state_dict=branches), (), PATH)
    assert torch.equal(teacher.cls_token, state['cls_token']) and 'momentum_encoder' in source
    assert ignored == len(state) + 2
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
    ('dinov2', lambda: original('dinov2'), r'missing: blocks.2.', dict(depth=3)),
    ('dinov2', lambda: original('dinov2_swiglu'), r'missing: blocks.0.mlp.fc1', {}),
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


def test_torch_and_safetensors_files_are_read_in_parts_too():
    save = pytest.importorskip('safetensors.torch').save_file
    content, folder = files.state('dinov2_reg', 'original'), fresh_dir()
    torch.save(content, folder / 'a.pth')
    save(content, folder / 'a.safetensors')
    names = list(content)
    parts = {'a-1.safetensors': names[:9], 'a-2.safetensors': names[9:]}
    for name, inside in parts.items():
        save({one: content[one] for one in inside}, folder / name)
    listed = {one: name for name, inside in parts.items() for one in inside}
    index = folder / 'a.safetensors.index.json'
    index.write_text(json.dumps(dict(metadata={}, weight_map=listed)))
    whole = sha256(index)
    for name in ('a.pth', 'a.safetensors', index.name):
        teacher = blank('dinov2_reg')
        assert teacher.load_teacher(folder / name, PATH) == (len(teacher.state_dict()), 1)
        assert teacher.source.endswith('(original names)')
        assert torch.equal(teacher.register_tokens, content['register_tokens'])
    save({one: content[one] for one in names[10:]}, folder / 'a-2.safetensors')
    with pytest.raises(ValueError, match=rf'a-2.safetensors holds other .* lists: {names[9]} and 0 more'):
        blank('dinov2_reg').load_teacher(index, PATH)
    assert sha256(index) != whole, 'the receipt tells files of other contents apart'
    index.write_text(json.dumps(dict(weight_map={'a': '../a.safetensors'})))
    with pytest.raises(ValueError, match="'../a.safetensors' is no .safetensors file beside it"):
        blank('dinov2_reg').load_teacher(index, PATH)
    index.write_text(json.dumps(dict(weight_map={'a': 'b.safetensors'})))
    with pytest.raises(FileNotFoundError, match='b.safetensors'):
        blank('dinov2_reg').load_teacher(index, PATH)
