"""Weights out of checkpoints, strict loading, and the export of a student."""

import copy

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmdistill_dense.__main__ import main
from mmdistill_dense.apps.export import export_student
from mmdistill_dense.weights.strict_load import (
    copy_strictly,
    is_distill_model,
    load_strictly,
    plain_config,
    state_dict_of,
)
from tests import toys


def network():
    return nn.ModuleDict(dict(body=nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)), head=nn.Conv2d(2, 3, 1)))


def filled(value=1.0):
    return {name: torch.full_like(tensor, value) for name, tensor in network().state_dict().items()}


def test_layouts_of_checkpoints():
    state = filled()
    wrapped = {f'module.{name.replace("body.", "body._orig_mod.")}': value for name, value in state.items()}
    for content in (state, dict(model=state), dict(state_dict=state), dict(state_dict=wrapped), wrapped):
        assert not toys.differing(state_dict_of(content, 'x'), state)
    with pytest.raises(ValueError, match=r"holds no weights; its entries are \['epoch', 'meta'\]"):
        state_dict_of(dict(meta={}, epoch=3), 'x')


def test_the_teaching_weights_are_told(monkeypatch):
    """mmcv 1.x swaps them before it saves; timm and DETR keep the averages below a key of their own."""
    said, one = [], torch.ones(1)
    monkeypatch.setattr('mmdistill_dense.weights.strict_load.print_log', lambda text, *_: said.append(text))
    found = state_dict_of(dict(state_dict={'a.b_c.weight': one, 'ema_a_b_c_weight': -one, 'ema_own': one}), 'x')
    assert list(found) == ['a.b_c.weight', 'ema_own'] and not said
    averages = 'state_dict_ema', 'model_ema', 'ema_model', 'ema'
    for key in ('ema_state_dict', *averages):  # the first holds the live weights, as mmengine swaps them, too
        assert state_dict_of(dict(state_dict={'a': one}) | {key: {'a': -one}}, 'x')['a'] == 1
    assert said == [f"'x': {key} is left out; what is read is not averaged." for key in averages]


def test_fitting_weights_are_counted():
    """Counters of batches may be missing, statistics not."""
    target, state = network(), filled(3.0)
    assert load_strictly(target, state, None, 'k') == (9, 0)
    assert not toys.differing(target.state_dict(), state)
    del state['body.1.num_batches_tracked']
    assert load_strictly(network(), state, None, 'k') == (8, 0)
    del state['body.1.running_mean']
    with pytest.raises(ValueError, match='missing: body.1.running_mean'):
        load_strictly(network(), state, None, 'k')


def test_every_kind_of_misfit_is_listed():
    state = filled()
    del state['body.0.weight'], state['body.1.bias']
    state.update({'body.2.extra': torch.zeros(1), 'head.weight': torch.zeros(5, 2, 1, 1)})
    with pytest.raises(ValueError) as error:
        load_strictly(network(), state, None, "model.teacher.checkpoint='t.pth'")
    first, *lists, _ = str(error.value).splitlines()
    assert first.startswith("model.teacher.checkpoint='t.pth' does not fit ModuleDict (9 tensors)")
    assert '2 missing, 1 unexpected, 1 of another shape' in first
    assert lists == [
        '  missing: body.0.weight, body.1.bias',
        '  unexpected: body.2.extra',
        '  unfit: head.weight (5, 2, 1, 1) (model (3, 2, 1, 1))',
    ]
    other = nn.Sequential(*(nn.Linear(1, 1) for _ in range(6)))
    with pytest.raises(ValueError, match=r'12 missing[^§]*and 6 more'):
        load_strictly(other, dict(x=torch.zeros(1)), None, 'k')


@pytest.mark.parametrize(('value', 'expected_text'), [('nan', 'NaN'), ('inf', 'infinity'), ('-inf', 'infinity')])
def test_numbers_that_are_not_finite_are_named(value, expected_text):
    for name in ('body.0.weight', 'body.1.running_var', 'head.bias'):
        state = filled()
        state[name].view(-1)[1] = float(value)
        with pytest.raises(ValueError, match=rf'^k: {name} holds {expected_text}\. The file is damaged') as caught:
            load_strictly(network(), state, None, 'k')
        assert 'another shape' not in str(caught.value)
        with pytest.raises(ValueError, match=rf'^title: {name} holds {expected_text}\.'):
            copy_strictly(network().state_dict(), state, 'title', 'it', '')


def test_infinity_may_be_of_the_networks_own_type():
    """Numbers may be too large for it; the mask of an attention holds infinity on purpose."""
    state = filled()
    state['body.1.running_var'][0] = 7e4
    with pytest.raises(ValueError, match=r'k: body\.1\.running_var holds infinity as torch\.float16\. .*ends at 65504'):
        load_strictly(network().half(), state, None, 'k')
    assert load_strictly(network(), state, None, 'k') == (9, 0)
    masked, state = nn.Linear(2, 2), nn.Linear(2, 2).state_dict()
    masked.register_buffer('mask', torch.full((3, 3), -float('inf')).triu(1))
    load_strictly(masked, dict(state, mask=masked.mask.clone()), None, 'k')
    with pytest.raises(ValueError, match='mask holds infinity'):
        load_strictly(masked, dict(state, mask=masked.mask.clone().T.contiguous()), None, 'k')


def test_parts_outside_take_what_fits():
    state = dict(filled(2.0), **{'head.weight': torch.zeros(5, 2, 1, 1), 'tail.weight': torch.zeros(1)})
    target = network()
    untouched = target['head'].weight.clone()
    assert load_strictly(target, state, {'body'}, 'k') == (8, 2)
    assert target['body'][0].weight.eq(2).all() and target['head'].bias.eq(2).all()
    assert torch.equal(target['head'].weight, untouched)
    state['head.bias'][0] = float('inf')
    assert load_strictly(network(), state, {'body'}, 'k') == (7, 3), 'and may be damaged'
    del state['body.0.bias']
    with pytest.raises(ValueError, match='1 missing, 0 unexpected, 0 of another shape'):
        load_strictly(network(), state, {'body'}, 'k')


def test_a_part_is_no_part_that_begins_alike():
    target = nn.ModuleDict(dict(body=nn.Linear(2, 2), body2=nn.Linear(2, 2), bod=nn.Linear(2, 2)))
    for part in target:
        state = {f'{part}.{name}': tensor + 1 for name, tensor in target[part].state_dict().items()}
        assert load_strictly(target, state | {'body3.weight': torch.zeros(1)}, {part}, 'k') == (2, 1)
        for other in target.keys() - {part}:
            with pytest.raises(ValueError, match=rf'2 missing, 0 .*\n  missing: {other}\.weight, {other}\.bias\n'):
                load_strictly(target, state, {part, other}, 'k')


@pytest.mark.parametrize('parts', [None, {'body'}])
def test_a_prefix_without_which_all_fit_is_named(parts):
    for prefix in ('model.', 'net.', 'architecture.'):
        state = {prefix + name: value for name, value in filled().items()}
        with pytest.raises(ValueError, match=f"All of them fit without the prefix '{prefix}': cut it"):
            load_strictly(network(), state, parts, 'k')
        del state[f'{prefix}body.0.bias']
        with pytest.raises(ValueError, match='Give the file that was trained with this config'):
            load_strictly(network(), state, parts, 'k')


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """A distilled run of two iterations with parameters in its distiller; returns (config, checkpoint, model)."""
    work_dir = tmp_path_factory.mktemp('run')
    model = toys.model_config(toys.seg_net('fcn', dropout=0.1), toys.seg_teacher('fcn'))
    config = toys.run_config(work_dir, model, iters=2, model_wrapper_cfg=dict(type='mmdistill_dense.DistillDDP'))
    return config, work_dir / 'iter_2.pth', toys.train(work_dir, config).model


def test_plain_config_has_what_a_student_takes_from_elsewhere():
    """The preprocessor of the top level, or an exported student would see pictures that are not normalised; the scope
    of a student of another one; the user's imports."""
    top, kind = dict(type='SegDataPreProcessor', mean=[1.0] * 3, std=[2.0] * 3), dict(type='Own')
    student = dict(type='EncoderDecoder', backbone=dict(type='None'))
    distilled = dict(type='mmdistill_dense.DistillModel', student=student, teacher={}, distillers={})
    for model, expected in ((student, top), (distilled, top), (dict(student, data_preprocessor=kind), kind)):
        config = Config(dict(default_scope='mmseg', data_preprocessor=top, model=model))
        assert plain_config(config).model.data_preprocessor == expected
        assert 'data_preprocessor' not in config.model or model.get('data_preprocessor') == kind, 'is left as it is'
    zoo = toys.model_config(dict(cfg=toys.SEG['fcn'], pretrained=False))
    for default, scope in (('mmseg', None), ('mmdet', 'mmseg'), (None, 'mmseg')):
        assert plain_config(Config(dict(default_scope=default, model=zoo))).model.get('_scope_') == scope
    config = toys.run_config('x', toys.model_config())
    for names in (['mine'], []):
        config.custom_imports = dict(imports=['mmdistill_dense.engine.launch', *names])
        assert plain_config(config).get('custom_imports', {}).get('imports', []) == names


def test_an_export_loads_into_the_vanilla_network(run, tmp_path):
    config, checkpoint, model = run
    before = dict(config._cfg_dict.to_dict(), distillers=dict(kd=dict(type='LogitKD')))
    words = Config(copy.deepcopy(before))
    flat = plain_config(words)
    assert words._cfg_dict.to_dict() == before, 'the given config is left as it was'
    assert is_distill_model(words.model) and not is_distill_model(flat.model)
    assert flat.train_dataloader.dataset.type == 'mmdistill_dense.ShapesSegDataset'
    words.dump(tmp_path / 'leaf.py')
    out = tmp_path / 'new' / 'student.pth'
    options = ['--cfg-options', 'model.student.decode_head.ignore_index=7']
    assert main(['export', *map(str, (tmp_path / 'leaf.py', checkpoint, out)), *options]) == 0
    plain = Config.fromfile(out.with_suffix('.py'))
    for word in ('DistillModel', 'distillers', 'DistillHook', 'teacher', 'LogitKD', 'DistillDDP', 'student', "cfg='"):
        assert word not in flat.pretty_text + plain.pretty_text, word
    assert plain.model.type == 'EncoderDecoder' and plain.model.decode_head.ignore_index == 7
    init_default_scope('mmseg')
    vanilla = MODELS.build(plain.model)
    content = torch.load(out, weights_only=True)
    vanilla.load_state_dict(content['state_dict'], strict=True)
    assert set(content) == {'state_dict', 'meta'} and content['meta']['dataset_meta']['classes']
    batch = toys.seg_batch(seed=4)
    with torch.no_grad():
        answers, expected_predictions = (m.eval().test_step(copy.deepcopy(batch)) for m in (model, vanilla))
    for a, b in zip(answers, expected_predictions, strict=True):
        assert torch.equal(a.seg_logits.data, b.seg_logits.data)
        assert torch.equal(a.pred_sem_seg.data, b.pred_sem_seg.data)
    with pytest.raises(ValueError, match=r'checkpoint=.*does not fit EncoderDecoder'):
        export_student(config, toys.teacher_file('fcn'), tmp_path / 's.pth')
    assert not (tmp_path / 's.pth').exists()
