"""Exported students answer as the network does, in another runtime, and say what they are."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config, ConfigDict
from mmengine.model import BaseModel
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import load_checkpoint
from torch import Tensor, nn

from mmdistill_dense.__main__ import main
from mmdistill_dense.apps.export import export_graph, export_student, graphs, open_graph, read_description
from mmdistill_dense.apps.export import write_student as exporting
from mmdistill_dense.apps.export.graphs import GRAPHS, graph_of, is_graph, write_exported
from mmdistill_dense.apps.export.write_student import export_backbone, student_description
from tests import query_nets, toys
from tests.faults.tools import full_disk

CLASSES = [f'class {index}' for index in range(toys.NUM_CLASSES)]
CLOSE = dict(rtol=0, atol=2e-5)  # float32 sums in another order, of logits around 1


def checkpoint_of(option, folder, meta=None):
    """The vanilla network of an option, and its weights in a file."""
    network = toys.build_plain(option, seed=3).eval()
    path = folder / 'student.pth'
    torch.save(dict(state_dict=network.state_dict(), meta=meta or {}), path)
    return network, path


@pytest.fixture(scope='module')
def segmentor(tmp_path_factory):
    """A config that distils, the student's network and its checkpoint."""
    option = toys.seg_net('fcn')
    config = toys.run_config('x', toys.model_config(option, toys.seg_net('fcn', allow_random=True)))
    meta = dict(dataset_meta=dict(classes=tuple(CLASSES), palette=[[0, 0, 1]]), iter=7, seed=1)
    return config, *checkpoint_of(option, tmp_path_factory.mktemp('seg'), meta)


@MODELS.register_module()
class Layers(nn.Module):
    """A backbone of one convolution a stage: what a test asks of the export itself needs no more to trace."""

    def __init__(self, strides=(2,), colours=3):
        super().__init__()
        channels = [colours, *(8 for _ in strides)]
        pairs = zip(channels[:-1], channels[1:], strides, strict=True)
        self.layers = nn.ModuleList(nn.Conv2d(in_channels, other, 3, stride, 1) for in_channels, other, stride in pairs)

    def forward(self, image):
        maps = [image]
        for layer in self.layers:
            maps.append(layer(maps[-1]))
        return tuple(maps[1:])


def one_layer(**head):
    """The option of mmseg's own segmentor on that backbone."""
    option = toys.seg_net('fcn', auxiliary_head=None)
    head = {**option['decode_head'], 'in_channels': 8, 'channels': 8, 'in_index': 0, 'num_convs': 1, **head}
    return {**option, 'backbone': dict(_delete_=True, type='mmengine.Layers'), 'decode_head': head}


@pytest.fixture(scope='module')
def small(tmp_path_factory):
    """As ``segmentor``, of few operations."""
    return toys.run_config('x', one_layer()), *checkpoint_of(one_layer(), tmp_path_factory.mktemp('small'))


@pytest.fixture(scope='module')
def detector(tmp_path_factory, request):
    layers = dict(_delete_=True, type='mmengine.Layers', strides=(4, 2, 2, 2))
    option = {**toys.det_net(request.param, neck=dict(in_channels=[8] * 4)), 'backbone': layers}
    return toys.det_run_config('x', option), *checkpoint_of(option, tmp_path_factory.mktemp('det'))


@pytest.fixture
def opened(monkeypatch):
    """The graphs that an export opens to compare their answers: to open one takes as long as to write it."""
    actual = []
    monkeypatch.setattr(graphs, 'open_graph', lambda path: actual.append(open_graph(path)) or actual[-1])
    return actual


def picture(batch, height, width):
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(height))


# Graphs of segmentors


@pytest.mark.parametrize('ending', ['.pt2', pytest.param('.onnx', marks=pytest.mark.soak)])
def test_segmentor_answers_as_mmseg_does(segmentor, opened, tmp_path, ending):
    config, network, checkpoint = segmentor
    actual = export_graph(config, checkpoint, tmp_path / 'new' / f'student{ending}')
    assert (actual.axes, actual.reasons) == (['batch', 'height', 'width'], [])
    assert actual.outputs == ['logits'] and actual.difference < 1e-5
    assert [path.name for path in (tmp_path / 'new').iterdir()] == [f'student{ending}'], 'one file'
    (run,) = opened
    for size in ((2, 64, 64), (1, 97, 71), (3, 33, 130)):
        image = picture(*size)
        with torch.no_grad():
            expected = torch.stack([sample.seg_logits.data for sample in network.predict(image)])
        (logits,) = run(image)
        torch.testing.assert_close(logits, expected, **CLOSE)
        assert logits.abs().max() > 100 * CLOSE['atol'], 'an answer of zeros would be close to anything'
    facts = read_description(actual.path)
    assert facts['classes'] == CLASSES and facts['task'] == 'segmentation' and facts['model'] == 'EncoderDecoder'
    assert facts['input'] | dict(shape=['batch', 3, 'height', 'width']) == facts['input']
    assert facts['input']['channels'] == 'RGB' and facts['input']['mean'] == [123.675, 116.28, 103.53]
    assert facts['outputs'] == {'logits': [2, toys.NUM_CLASSES, 64, 64]} and facts['made_with'] == [2, 3, 64, 64]
    assert 'threshold' not in facts
    assert facts['source']['iter'] == 7 and len(facts['source']['sha256']) == 64
    if ending == '.onnx':
        assert str(Path(torch.__file__).parent).encode() not in actual.path.read_bytes(), 'folders of this machine'


FORMULAS = {
    # an embedding of each position, as transformers have that do not interpolate theirs
    'positions': lambda image, positions: image * positions,
    # maps of two strides, as the feature pyramid of RTMDet adds: sides must be multiples of 32
    'strides': lambda image, _: image + F.interpolate(F.max_pool2d(image, 32), scale_factor=32.0),
    # a coarse map with one place in small pictures, which torch.export takes for a constant
    'coarse': lambda image, _: image + (coarse := F.max_pool2d(image, 32, ceil_mode=True)).mean((2, 3), keepdim=True)
    * (2 if coarse.shape[2] > 1 else 1),
}  # fmt: skip


@MODELS.register_module()
class Formula(BaseModel):
    """A segmentor whose logits are a formula of the picture and of a parameter."""

    def __init__(self, data_preprocessor=None, formula='positions'):
        super().__init__(data_preprocessor)
        self.positions, self.formula = nn.Parameter(torch.randn(1, 3, 8, 8)), FORMULAS[formula]

    def forward(self, inputs, data_samples=None, mode='tensor'):
        raise NotImplementedError

    def encode_decode(self, inputs: Tensor, metas: list) -> Tensor:
        return self.formula(inputs, self.positions)


def own_network(tmp_path, formula='positions'):
    torch.save(dict(state_dict=Formula().state_dict()), tmp_path / 'c.pth')
    return Config(dict(default_scope='mmengine', model=dict(type='Formula', formula=formula))), tmp_path / 'c.pth'


def test_size_is_fixed_where_the_network_has_one(tmp_path):
    """Another runtime may answer something else for other sizes, without an error."""
    config, checkpoint = own_network(tmp_path)
    actual = export_graph(config, checkpoint, tmp_path / 's.pt2', size=(8, 8))
    message = r's.pt2. takes pictures of the shape batch, 3, 8, 8, got \(2, 3, 8, 9\).*--size'
    with pytest.raises(ValueError, match=message):
        open_graph(actual.path)(picture(2, 8, 9))
    assert actual.axes == ['batch'] and actual.reasons[0].startswith('batch, height, width free: ')
    assert read_description(actual.path)['input']['shape'] == ['batch', 3, 8, 8]
    assert read_description(actual.path)['classes'] is None
    with pytest.raises(ValueError, match=r'Formula takes no pictures of 9x9: .*size of tensor.*--size H W'):
        export_graph(config, checkpoint, tmp_path / 'other.pt2', size=(9, 9))
    assert not (tmp_path / 'other.pt2').exists()
    config.model.data_preprocessor = None
    with pytest.raises(ValueError, match=r'Formula takes no pictures of 512x512: .*\(512\)'):
        export_graph(config, checkpoint, tmp_path / 'other.pt2')
    for kind in ('Resize', 'FixScaleResize'):  # the second is of no form that a whole graph has
        config.test_dataloader = dict(dataset=dict(pipeline=[dict(type=kind, scale=(40, 100), keep_ratio=True)]))
        with pytest.raises(ValueError, match=r'size of tensor a \(64\)'):  # not 512: 100x40, in multiples of 32
            export_graph(config, checkpoint, tmp_path / 'other.pt2')


def test_the_smallest_size_is_kept(tmp_path, capsys):
    own_network(tmp_path, 'coarse')[0].dump(tmp_path / 'leaf.py')
    files = [str(tmp_path / name) for name in ('leaf.py', 'c.pth', 's.pt2')]
    assert main(['export', *files, '--size', '40', '64']) == 0
    assert 'any height and width from 40x64 on (tried up to twice 40x64)' in capsys.readouterr().out
    run, message = open_graph(tmp_path / 's.pt2'), read_description(tmp_path / 's.pt2')['input']
    assert message['smallest'] == [40, 64]
    image = picture(1, 40, 99)
    torch.testing.assert_close(run(image)[0], FORMULAS['coarse'](image, None), **CLOSE)
    with pytest.raises(ValueError, match=r'height, width from 40x64 on, got \(1, 3, 32, 64\)'):
        run(picture(1, 32, 64))


@pytest.mark.parametrize('ending', ['.pt2', pytest.param('.onnx', marks=pytest.mark.soak)])
def test_sides_in_multiples_of_32_are_tried_before_one_size(opened, tmp_path, ending):
    config, checkpoint = own_network(tmp_path, 'strides')
    config.test_dataloader = dict(dataset=dict(pipeline=[dict(type='Resize', scale=(90, 60), keep_ratio=True)]))
    actual = export_graph(config, checkpoint, tmp_path / f's{ending}')
    assert (actual.axes, actual.step, actual.size) == (['batch', 'height', 'width'], 32, (64, 96))
    message = read_description(actual.path)['input']
    assert message['shape'] == ['batch', 3, 'height', 'width'] and message['pad_size_divisor'] == 32
    image = picture(1, 160, 96)
    torch.testing.assert_close(opened[-1](image)[0], FORMULAS['strides'](image, None), **CLOSE)


def test_another_answer_than_the_network_s_is_refused(tmp_path, monkeypatch):
    def wrong(graph, *rest):
        graph.model.positions[0, 0, 0, 0] += 0.01
        write_exported(graph, *rest)
        graph.model.positions[0, 0, 0, 0] -= 0.01

    config, checkpoint = own_network(tmp_path)
    export_graph(config, checkpoint, tmp_path / 's.pt2', size=(8, 8))
    older = (tmp_path / 's.pt2').read_bytes()
    monkeypatch.setitem(GRAPHS, '.pt2', wrong)
    with pytest.raises(ValueError, match=r'nothing free: logits differs from the network by \d\.\d+e-0'):
        export_graph(config, checkpoint, tmp_path / 's.pt2', size=(8, 8))
    assert (tmp_path / 's.pt2').read_bytes() == older and len(list(tmp_path.iterdir())) == 2, 'nothing is left'


def test_values_that_are_no_numbers_are_no_answer():
    graph = graph_of(Formula())
    with pytest.raises(ValueError, match='logits differs from the network by nan'):
        exporting._difference(lambda image: [image * torch.nan], graph, [picture(1, 8, 8)])
    with pytest.raises(ValueError, match='logits differs from the network by 1.00e-03 of its root mean square'):
        exporting._difference(lambda image: [1.001 * graph(image)[0]], graph, [1e-3 * picture(1, 8, 8)])
    with pytest.raises(ValueError, match=r'logits has shape \(1, 3, 8\)'):
        exporting._difference(lambda image: [image[..., 0]], graph, [picture(1, 8, 8)])


def test_a_grey_student_of_one_channel(tmp_path):
    """The argmax of one channel is 0 everywhere, so a threshold decides. The size comes from val."""
    loss = dict(type='CrossEntropyLoss', use_sigmoid=True)
    option = one_layer(out_channels=1, num_classes=2, loss_decode=loss)
    option['backbone']['colours'] = 1
    option['data_preprocessor'] = dict(size=None, mean=[120.0], std=[60.0])
    network, checkpoint = checkpoint_of(option, tmp_path, dict(CLASSES=CLASSES, PALETTE=[[0, 0, 1]]))
    steps = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(96, 64)), dict(type='PackSegInputs')]
    config = toys.run_config('x', option, val_dataloader=dict(dataset=dict(pipeline=steps)))
    actual = export_graph(config, checkpoint, tmp_path / 's.pt2')
    facts = read_description(actual.path)
    assert actual.size == (64, 96) and (facts['input']['shape'][1], facts['input']['channels']) == (1, 'grey')
    assert (facts['classes'], facts['palette']) == (CLASSES, [[0, 0, 1]])
    assert facts['threshold'] == network.decode_head.threshold and facts['outputs']['logits'][1] == 1
    image = picture(1, 64, 96)[:, :1]
    with torch.no_grad():
        (expected,) = network.predict(image)
    (logits,) = open_graph(tmp_path / 's.pt2')(image)
    assert torch.equal((logits.sigmoid() > facts['threshold'])[0].int(), expected.pred_sem_seg.data.int())


@pytest.mark.parametrize(('preprocessor', 'divisor', 'channels'), [
    (dict(size_divisor=8, bgr_to_rgb=True), 1, 'RGB'),  # in training alone
    (dict(size=(8, 8), test_cfg=dict(size_divisor=32)), 32, 'BGR'),  # SegNeXt, PoolFormer, Mask2Former
    (dict(rgb_to_bgr=True), 1, 'RGB'),
    (dict(pad_size_divisor=4), 4, 'BGR'),
    (None, 1, 'BGR'),
])  # fmt: skip
def test_description_has_the_input_of_a_test(preprocessor, divisor, channels):
    config = Config(dict(model=dict(type='Formula', data_preprocessor=preprocessor)))
    message = student_description(config, {}, Path(__file__))['input']
    assert (message['pad_size_divisor'], message['channels']) == (divisor, channels)


# Graphs of detectors


def boxes_of_mmdet(network, image, outputs):
    """What mmdet's own decoding makes of the outputs of a single-stage head."""
    shape = tuple(image.shape[2:])
    metas = [dict(img_shape=shape, ori_shape=shape, pad_shape=shape, scale_factor=(1.0, 1.0))] * len(image)
    every = ConfigDict(network.bbox_head.test_cfg, score_thr=0.0)  # an untrained head is sure of nothing
    return [found.bboxes for found in network.bbox_head.predict_by_feat(*outputs, batch_img_metas=metas, cfg=every)]


@pytest.mark.sample(1)
@pytest.mark.parametrize(('detector', 'ending', 'side'), [
    # torch.export takes a map of one pixel, as the last level of half of 160 has it, for a constant
    ('retinanet', '.pt2', 320), pytest.param('retinanet', '.onnx', 64, marks=pytest.mark.soak),
    ('faster_rcnn', '.pt2', 160),  # up to its proposals
], indirect=['detector'])  # fmt: skip
def test_maps_of_a_detector_are_those_of_mmdet(detector, opened, tmp_path, ending, side):
    config, network, checkpoint = detector
    two_stage = hasattr(network, 'rpn_head')
    exported = export_graph(config, checkpoint, tmp_path / f's{ending}', size=(side, side))
    names = (*['features'] * two_stage, 'cls_scores', 'bbox_preds')
    assert exported.outputs == [f'{name}_{level}' for name in names for level in range(5)]
    image = picture(2 - two_stage, side + 33, side + 7)
    outputs = opened[-1](image)
    with torch.no_grad():
        features = network.extract_feat(image)
        expected = (features, *network.rpn_head(features)) if two_stage else network(image, mode='tensor')
    for output, level_map in zip(outputs, (level for levels in expected for level in levels), strict=True):
        torch.testing.assert_close(output, level_map, **CLOSE)
    if two_stage:
        return
    assert (exported.axes, exported.reasons) == (['batch', 'height', 'width'], [])
    if exported.difference == 0:  # else suppression may choose others among boxes of almost one score
        ours, theirs = (boxes_of_mmdet(network, image, maps) for maps in ((outputs[:5], outputs[5:]), expected))
        assert len(ours[0]) > 0 and all(map(torch.equal, ours, theirs))
    assert exported.difference == 0 or ending == '.onnx'
    about = read_description(exported.path)
    assert about['task'] == 'detection' and 'MMDeploy' in about['note'] and about['input']['pad_size_divisor'] == 32


def test_other_networks_are_refused():
    with pytest.raises(ValueError, match='a Linear cannot be exported as a graph.*as pth or safetensors.*MMDeploy'):
        graph_of(nn.Linear(1, 1))


@pytest.mark.parametrize('detector', ['retinanet'], indirect=True)
def test_a_head_of_more_than_maps_is_refused_once(detector, tmp_path, monkeypatch):
    """As RTMDet-Ins, whose head also gives a map of masks that has no levels."""
    config, network, checkpoint = detector
    kind = type(network.bbox_head)
    monkeypatch.setattr(kind, 'forward', lambda self, maps: ([maps[0]], maps[0]))
    message = r'^\w+Head of RetinaNet gives more than maps by level: no graph has it\. Export'
    with pytest.raises(ValueError, match=message):
        export_graph(config, checkpoint, tmp_path / 's.pt2', (64, 64))
    assert not (tmp_path / 's.pt2').exists()


# Weights


def check_weights(config, network, weights, plain):
    """They load strictly into the network that the plain config builds; return the meta of the file."""
    init_default_scope(config.default_scope)
    again = MODELS.build(Config.fromfile(plain).model)
    meta = load_checkpoint(again, str(weights), map_location='cpu', strict=True)['meta']
    assert not toys.differing(again.state_dict(), network.state_dict())
    return meta


@pytest.mark.parametrize('ending', ['.pth', '.safetensors'])
def test_weights_load_into_the_plain_network_with_their_classes(segmentor, tmp_path, ending):
    config, network, checkpoint = segmentor
    weights, plain = export_student(config, checkpoint, tmp_path / f's{ending}')
    meta = check_weights(config, network, weights, plain)
    assert list(meta['dataset_meta']['classes']) == CLASSES and meta['iter'] == 7
    facts = read_description(weights)
    assert facts['classes'] == CLASSES and facts['palette'] == [[0, 0, 1]] and facts['input']['channels'] == 'RGB'


def test_a_detector_with_queries_has_the_config_of_mmdet(tmp_path):
    """Its constructor writes into its options what it refuses to find there."""
    option = query_nets.query_net('dino')
    (network, checkpoint), config = checkpoint_of(option, tmp_path), toys.det_run_config('x', option)
    check_weights(config, network, *export_student(config, checkpoint, tmp_path / 's.pth'))


# What to write


def test_ending_says_what_is_written(small, tmp_path):
    config, _, checkpoint = small
    assert [is_graph(f'a{ending}') for ending in ('.pth', '.safetensors', '.onnx', '.pt2')] == [False] * 2 + [True] * 2
    for call, message in (
        (lambda: is_graph('a.py'), "out='a.py': it must end in .pth, .safetensors, .onnx, .pt2"),
        (lambda: is_graph('a.pt'), 'torchscript has left: write a graph of torch.export'),
        (lambda: export_student(config, checkpoint, tmp_path / 's.onnx'), r'must end in \.pth or \.safetensors'),
        (lambda: export_graph(config, checkpoint, tmp_path / 's.pth'), '.pth holds weights; graphs are .onnx and .pt2'),
        (lambda: open_graph(checkpoint), 'holds weights and no graph'),
        (lambda: read_description(checkpoint), r"student\.pth' has no description"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_missing_package_is_named_with_its_command(tmp_path, monkeypatch):
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None if name == 'onnxruntime' else name)
    with pytest.raises(ModuleNotFoundError, match=r'onnx needs onnxruntime: pip install .*\[export\]'):
        export_graph(Config(), 'c.pth', tmp_path / 's.onnx')


def test_command_line(small, tmp_path, capsys):
    config, checkpoint = own_network(tmp_path)
    config.dump(tmp_path / 'leaf.py')

    def call(*words):
        if code := main(['export', str(tmp_path / 'leaf.py'), str(checkpoint), *words]):
            raise SystemExit(code)
        return capsys.readouterr().out

    graph, weights = str(tmp_path / 's.pt2'), str(tmp_path / 's.safetensors')
    printed = call(graph, '--size', '8', '8')
    assert f'graph   {graph}' in printed and 'the graph takes pictures of 8x8 alone: --size H W sets another' in printed
    assert f'weights {weights}' in call(weights)
    segmentor, file = str(tmp_path / 'segmentor.py'), str(tmp_path / 'backbone.pth')
    small[0].dump(segmentor)
    assert main(['export', segmentor, str(small[2]), file, '--backbone-only']) == 0
    assert file in capsys.readouterr().out
    assert torch.load(file)['state_dict'].keys() == small[1].backbone.state_dict().keys()
    with pytest.raises(SystemExit):
        call(graph, '--format', 'exported')
    assert 'export --format has left: leave it out' in capsys.readouterr().err
    for words, message in (
        ((graph, '--size', '-8', '8'), "argument --size: must be 1 or more, got '-8'"),
        ((weights, '--size', '8', '8', '--evaluate'), '--size, --evaluate: only for graphs'),
        ((graph, '--whole'), 'whole graphs end in .onnx'),
        ((str(tmp_path / 's.onnx'), '--int8', '8'), 'export --int8 has left: python examples/quantize_int8.py'),
        ((graph, '--evaluate'), 'leaf.py has no val_dataloader and no val_evaluator'),
    ):
        with pytest.raises(SystemExit):
            call(*words)
        assert message in capsys.readouterr().err
    toys.det_run_config('x', toys.det_net('faster_rcnn')).dump(tmp_path / 'leaf.py')
    with pytest.raises(SystemExit):
        call(str(tmp_path / 's.onnx'), '--evaluate')
    assert 'ends before its RoI heads: add --whole' in capsys.readouterr().err


def test_no_config_of_the_user_is_replaced(segmentor, tmp_path):
    """But that of an earlier export is, see below."""
    config, _, checkpoint = segmentor
    export_student(config, checkpoint, tmp_path / 'student.pth')
    config_file = tmp_path / 'kd.py'
    plain = Config.fromfile(tmp_path / 'student.py').pretty_text  # as the run.py of a control
    for text in ("_base_ = ['control.py']\n", config.pretty_text, plain, ''):
        config_file.write_text(text)
        with pytest.raises(FileExistsError, match='kd.py is a config of yours. Choose another name'):
            export_student(config, checkpoint, tmp_path / 'kd.pth')
        assert config_file.read_text() == text and not (tmp_path / 'kd.pth').exists()


def test_the_checkpoint_is_not_replaced(tmp_path):
    config, checkpoint = own_network(tmp_path)
    before = checkpoint.read_bytes()
    same = checkpoint.with_name('c.pt2')
    same.hardlink_to(checkpoint)
    for export, out in ((export_student, checkpoint), (export_backbone, checkpoint), (export_graph, same)):
        with pytest.raises(FileExistsError, match='is the checkpoint itself.*Choose another name'):
            export(config, checkpoint, out)
    assert checkpoint.read_bytes() == before and not checkpoint.with_suffix('.py').exists()


def test_only_an_earlier_export_is_replaced(small, tmp_path):
    config, _, checkpoint = small
    for export, name in ((export_student, 's.pth'), (export_student, 's.safetensors'), (export_backbone, 'b.pth')):
        export(config, checkpoint, tmp_path / name)
        export(config, checkpoint, tmp_path / name)
    own = tmp_path / 'teacher.pth'
    for content in (dict(state_dict={}, meta=dict(iter=5)), torch.zeros(2)):
        torch.save(content, own)
        before = own.read_bytes()
        own.with_suffix('.pt2').write_bytes(before)
        for export, out in ((export_student, own), (export_backbone, own), (export_graph, own.with_suffix('.pt2'))):
            with pytest.raises(FileExistsError, match='is there, without what mmdistill export writes'):
                export(config, checkpoint, out)
            assert out.read_bytes() == before
    (tmp_path / 'folder.pt2').mkdir()
    with pytest.raises(ValueError, match=r"folder\.pt2' is a folder: name a file in it"):
        export_graph(config, 'no file is read', tmp_path / 'folder.pt2')


@pytest.mark.parametrize('ending', ['.pt2', pytest.param('.onnx', marks=pytest.mark.soak)])
def test_a_full_disk_is_no_fault_of_the_format(small, tmp_path, monkeypatch, ending):
    config, _, checkpoint = small
    tried, writer = [], GRAPHS[ending]
    monkeypatch.setitem(GRAPHS, ending, lambda *words: [tried.append(words[2]), writer(*words)])
    with full_disk(2000), pytest.raises(OSError, match=f'File too large.*s{ending}'):
        export_graph(config, checkpoint, tmp_path / f's{ending}')
    assert len(tried) == 1 and not list(tmp_path.iterdir())
