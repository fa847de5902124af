"""Whole graphs answer for a picture as mmseg and mmdet do, and what graphs score."""

import inspect
import json
import runpy
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import mmcv
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from PIL import Image
from torch import nn

from mmdistill_dense.__main__ import main
from mmdistill_dense.apps.export import export_graph, graphs, open_graph, picture_graph, read_description, write_student
from mmdistill_dense.apps.export.graphs import _pooled, graph_of
from mmdistill_dense.apps.export.picture_graph import Prepare, count_matches, picture, predict_image, preparation
from mmdistill_dense.apps.export.postprocess import Detections, Labels, Queries, check_decoding
from mmdistill_dense.apps.export.write_student import _sizes, evaluate, load_student, with_prediction
from tests import toys
from tests.export.networks import config_and_checkpoint, words_of

SERVE = Path(__file__).parents[2] / 'examples' / 'serve_onnx.py'
EXAMPLE = runpy.run_path(str(SERVE))
SIZES = ((96, 128), (131, 97), (60, 200))


def loaded(folder, kind, pipeline=None):
    """Its plain config, and the network to test with."""
    plain, network, _, _ = load_student(*config_and_checkpoint(folder, kind, pipeline))
    return plain, network.eval()


def told_of(config):
    network = Config(dict(model=config.model, test_dataloader=config.test_dataloader))
    return write_student.student_description(network, {}, Path(__file__))['input']


# Before the network


@pytest.mark.parametrize('steps', [
    [dict(type='Resize', scale=(160, 112), keep_ratio=True)],
    [dict(type='Resize', scale=(90, 70), keep_ratio=False)],
    [dict(type='Resize', scale=(128, 128), keep_ratio=True),
     dict(type='Pad', size=(128, 128), pad_val=dict(img=(114,) * 3))],
    [dict(type='Pad', size_divisor=48, pad_to_square=True)],
    [],
])  # fmt: skip
def test_a_picture_is_prepared_as_the_pipeline_does(tmp_path, steps):
    plain, network = loaded(tmp_path, 'retinanet', steps or [dict(type='LoadAnnotations')])
    prepare, kept_steps = Prepare(told_of(plain)), []
    network.extract_feat = lambda image: kept_steps.append(image) or 1 / 0
    for size in (*SIZES, (112, 160)):
        one = picture(*size)
        with pytest.raises(ZeroDivisionError):
            predict_image(network, plain, one.numpy())
        image, frame, factor, _ = prepare(one)
        expected = kept_steps.pop()
        assert image.shape == expected.shape
        # OpenCV computes in whole numbers, too: one step of 255 at few pixels
        different = (image - expected).abs() * 57
        assert different.max() < 1.1 and (different > 0.1).float().mean() < 0.005
        if steps and steps[0].get('keep_ratio'):
            width, height = mmcv.rescale_size(size[::-1], steps[0]['scale'])
            assert factor.tolist() == pytest.approx([width / size[1], height / size[0]])
        assert frame.shape[2] <= image.shape[2] and frame.shape[3] <= image.shape[3]


@pytest.mark.parametrize(('step', 'message'), [
    (dict(type='Resize', scale=(9, 9), interpolation='bicubic'), r"Resize\(scale=\(9, 9\), interpolation='bicubic'\)"),
    (dict(type='RandomFlip', prob=0.5), r'the test pipeline has RandomFlip\(prob=0.5\); known are'),
    (dict(type='Pad', size=(9, 9), pad_val=(1, 2, 3)), r'pad_val \(1, 2, 3\), and not one value'),
])  # fmt: skip
def test_other_steps_are_refused(step, message):
    config = dict(test_dataloader=dict(dataset=dict(pipeline=[dict(type='LoadImageFromFile'), step])))
    with pytest.raises(ValueError, match=message):
        preparation(config)


@pytest.mark.parametrize('bins', [1, 3, (2, 5)])
@pytest.mark.parametrize('size', [(13, 7), (1, 9)])
def test_pooling_to_places_is_that_of_torch(bins, size):
    maps = torch.randn(2, 3, *size)
    torch.testing.assert_close(_pooled(maps, bins), F.adaptive_avg_pool2d(maps, bins))


# Behind it


KINDS = ('retinanet', 'gfl', 'atss', 'fcos', 'faster_rcnn', 'mask_rcnn', 'cascade_mask_rcnn', 'dino')


@pytest.mark.sample(3)
@pytest.mark.parametrize('kind', KINDS)
def test_boxes_are_those_of_mmdet(tmp_path, kind):
    plain, network = loaded(tmp_path, kind)
    graph, prepare = graph_of(network), Prepare(told_of(plain))
    number = 0
    for size in SIZES if kind == 'retinanet' else SIZES[1:]:
        one = picture(*size)
        expected = predict_image(network, plain, one.numpy()).pred_instances
        with torch.no_grad():
            image, *between = prepare(one)
            maps = graph.named_outputs(image)
            chosen = (Queries if kind == 'dino' else Detections)(network, dict(outputs=maps))
            answer = chosen(*between, *maps.values())
        assert count_matches(expected, answer) == len(expected) == len(answer[0])
        assert len(answer) == (4 if 'mask' in kind else 3)
        number += len(expected)
    assert number > 20
    again = predict_image(network, plain, one.numpy()).pred_instances
    assert torch.equal(again.bboxes, expected.bboxes), 'mmdet is as it was'


def test_labels_are_those_of_mmseg(tmp_path):
    plain, network = loaded(tmp_path, 'pspnet')
    graph, prepare = graph_of(network), Prepare(told_of(plain))
    for size in SIZES:
        one = picture(*size)
        expected = predict_image(network, plain, one.numpy()).pred_sem_seg.data[0]
        with torch.no_grad():
            image, *between = prepare(one)
            (labels,) = Labels(network, {})(*between, *graph.named_outputs(image).values())
        assert labels.dtype == torch.uint8 and labels.shape == expected.shape and len(expected.unique()) > 1
        assert (labels == expected).float().mean() > 0.999


def test_boxes_of_a_graph_become_a_prediction_that_metrics_take():
    from mmdet.structures import DetDataSample

    answer = [torch.tensor([[1.0, 2, 3, 4]]), torch.tensor([0.5]), torch.tensor([1]), torch.ones(1, 6, 8) > 0]
    actual = with_prediction(DetDataSample(), ['boxes', 'scores', 'labels', 'masks'], answer).pred_instances
    assert actual.bboxes is answer[0] and actual.scores.tolist() == [0.5] and actual.labels.tolist() == [1]
    assert actual.masks.shape == (1, 6, 8)


def test_pairs_need_label_place_and_score():
    from mmengine.structures import InstanceData

    boxes = torch.tensor([[0.0, 0, 100, 100], [0, 0, 50, 50]])
    expected = InstanceData(bboxes=boxes, scores=torch.tensor([0.9, 0.5]), labels=torch.tensor([0, 1]))
    same = [boxes.flip(0), expected.scores.flip(0), expected.labels.flip(0)]
    assert count_matches(expected, same) == 2
    assert count_matches(expected, [same[0] + torch.tensor([0, 0, 0, 3.0]), *same[1:]]) == 0
    assert count_matches(expected, [same[0], same[1] + 0.01, same[2]]) == 0
    assert count_matches(expected, [*same[:2], torch.tensor([1, 1])]) == 1
    twice = [boxes[[0, 0]], expected.scores[[0, 0]], expected.labels[[0, 0]]]
    assert count_matches(expected, twice) == 1, 'each counts once'


def test_a_head_that_chooses_boxes_in_its_own_form_is_refused():
    """What these graphs replace is what mmdet's base classes do. PAA votes, YOLACT suppresses all classes at once."""
    from mmdet.models import dense_heads

    refused = set()
    for kind in {kind for kind in vars(dense_heads).values() if hasattr(kind, '_bbox_post_process')}:
        if not inspect.isabstract(kind):
            head = kind.__new__(kind)
            nn.Module.__init__(head)
            head.test_cfg = dict(nms=dict(type='nms'), nms_pre=9)
            try:
                check_decoding(SimpleNamespace(bbox_head=head), False)
            except ValueError as error:
                assert 'has its own _bbox_post_process; whole graphs have that of Base' in str(error)
                refused.add(kind.__name__)
    assert refused == {'PAAHead', 'LADHead', 'YOLACTHead'}


@pytest.mark.parametrize(('name', 'refused'), [('DINOHead', False), ('DETRHead', False), ('DDQDETRHead', True)])
def test_queries_that_are_chosen_otherwise_are_refused(name, refused):
    from mmdet.models import dense_heads

    kind = getattr(dense_heads, name)
    with pytest.raises(ValueError, match='DDQDETRHead has its own predict') if refused else nullcontext():
        Queries(SimpleNamespace(bbox_head=kind.__new__(kind)), {})


@pytest.mark.parametrize(('part', 'method'), [
    ('mask_head', '_predict_by_feat_single'), ('bbox_roi_extractor', 'forward'),
])  # fmt: skip
def test_regions_that_are_read_otherwise_are_refused(tmp_path, part, method):
    network = loaded(tmp_path, 'mask_rcnn')[1]
    check_decoding(network, True)
    layer = getattr(network.roi_head, part)
    before = type(layer)
    layer.__class__ = type('Own', (before,), {method: lambda *_: None})
    with pytest.raises(ValueError, match=f'Own has its own {method}; whole graphs have that of {before.__name__}'):
        check_decoding(network, True)


@pytest.mark.parametrize(('kind', 'part', 'option', 'message'), [
    ('retinanet', 'bbox_head', dict(nms=dict(type='soft_nms')),
     'suppresses boxes by soft_nms: ONNX has plain suppression alone'),
    ('mask_rcnn', 'rpn_head', dict(nms_pre=-1), 'has nms_pre=-1: set how many candidates'),
])  # fmt: skip
def test_a_suppression_that_onnx_has_not_is_refused(tmp_path, kind, part, option, message):
    network = loaded(tmp_path, kind)[1]
    head = getattr(network, part)
    head.test_cfg.update(option)
    with pytest.raises(ValueError, match=f'{type(head).__name__} {message}'):
        check_decoding(network, part == 'rpn_head')


def test_a_test_by_windows_is_no_graph(tmp_path, capsys):
    config_and_checkpoint(tmp_path, 'fcn')
    assert main(words_of(tmp_path, 's.onnx', '--whole', '--cfg-options', 'model.test_cfg.mode=slide')) == 2
    assert "test_cfg.mode='slide' predicts by windows" in capsys.readouterr().err


# The file, by itself


@pytest.mark.soak
@pytest.mark.parametrize('kind', ['pspnet', 'retinanet', 'mask_rcnn'])
def test_a_graph_answers_where_neither_torch_nor_this_package_is(tmp_path, kind, capsys):
    """The example reads a file, for the whole graph and (without masks) for the bare one."""
    plain, network = loaded(tmp_path, kind)
    image = picture(117, 150)
    mmcv.imwrite(image.numpy()[..., ::-1].copy(), str(tmp_path / 'photo.png'))
    expected = predict_image(network, plain, image.numpy())
    assert main(words_of(tmp_path, 'whole.onnx', '--size', '96', '128', '--whole')) == 0
    assert 'from pictures of any size to answers\nequal   ' in capsys.readouterr().out
    facts = read_description(tmp_path / 'whole.onnx')
    assert facts['tried']['pictures'] == [[96, 128], *_sizes((96, 128), 1)] and facts['tried']['equal'] > 0.99
    assert facts['input']['shape'] == ['height', 'width', 3] and facts['network']['resize']['scale'] == [160, 112]
    graphs = ['whole.onnx']
    if kind != 'mask_rcnn':
        assert main(words_of(tmp_path, 'bare.onnx', '--size', '96', '128')) == 0
        graphs.append('bare.onnx')
    for graph in graphs:
        actual = served(tmp_path, graph)
        if kind == 'pspnet':
            assert (actual[0] == expected.pred_sem_seg.data[0].numpy()).mean() > (0.999 if 'whole' in graph else 0.98)
        else:
            number = count_matches(expected.pred_instances, [torch.as_tensor(value) for value in actual], score=1e-3)
            assert number >= (0.99 if 'whole' in graph else 0.9) * len(expected.pred_instances) > 5


@pytest.mark.soak
@pytest.mark.parametrize('kind', ['deformable', 'conditional'])
def test_a_detr_is_a_graph_of_one_size(tmp_path, kind):
    config, checkpoint = config_and_checkpoint(tmp_path, kind, [dict(type='Resize', scale=(128, 96), keep_ratio=False)])
    actual = export_graph(config, checkpoint, tmp_path / 'whole.onnx', (96, 128), whole=True)
    assert (actual.axes, actual.outputs) == ([], ['cls_scores', 'bbox_preds']) and actual.difference < 1e-5
    plain, network, _, _ = load_student(config, checkpoint)
    run = open_graph(actual.path)
    for size in SIZES:
        expected = predict_image(network.eval(), plain, picture(*size).numpy()).pred_instances
        assert count_matches(expected, run(picture(*size))) == len(expected) > 10


def test_a_preprocessor_s_size_is_height_and_width(tmp_path):
    config, _ = config_and_checkpoint(tmp_path, 'fcn', [dict(type='LoadAnnotations')])
    config.model.data_preprocessor = dict(test_cfg=dict(size=(128, 256)))
    assert Prepare(told_of(config))(picture(100, 200))[0].shape[2:] == (128, 256)


ANCHORS = dict(scores='sigmoid', coder=dict(type='DeltaXYWHBBoxCoder'), nms=dict(score_thr=0.05, nms=dict(type='nms')))


CLAMPED = dict(ANCHORS, coder=dict(ANCHORS['coder'], add_ctr_clamp=True))  # as YOLOF's
SOFT = dict(ANCHORS, nms=dict(score_thr=0.05, nms=dict(type='soft_nms')))


@pytest.mark.parametrize(('facts', 'message', 'names', 'needs'), [
    ({}, {}, ['logits'], ''),
    (dict(unknown='ResizeToMultiple'), {}, ['logits'], 'another preparation'),
    ({}, dict(test_cfg=dict(mode='slide')), ['logits'], 'windows'),
    ({}, dict(decoding=ANCHORS), ['cls_scores_0', 'bbox_preds_0'], ''),
    ({}, dict(decoding=ANCHORS), ['cls_scores_0', 'bbox_preds_0', 'centernesses_0'], 'another decoding'),
    ({}, dict(decoding=dict(ANCHORS, scores='softmax, …')), ['cls_scores_0', 'bbox_preds_0'], 'another decoding'),
    ({}, dict(decoding=CLAMPED), ['cls_scores_0', 'bbox_preds_0'], 'another coder'),
    ({}, dict(decoding=SOFT), ['cls_scores_0', 'bbox_preds_0'], 'another suppression'),
])  # fmt: skip
def test_the_example_refuses_what_it_does_not_do(facts, message, names, needs):
    facts = dict(pad=None, padding=dict(size=None, value=0.0)) | facts
    task = 'detection' if 'decoding' in message else 'segmentation'
    assert EXAMPLE['beyond'](dict(message, input=facts, task=task), names) == needs


def test_the_example_reads_as_opencv_does(tmp_path):
    grey = np.linspace(0, 65535, 48).astype(np.uint16).reshape(6, 8)
    colour = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    for name, pixels in (('grey', grey), ('colour', colour)):
        file = str(tmp_path / f'{name}.png')
        mmcv.imwrite(pixels, file)
        assert np.array_equal(EXAMPLE['read'](file, 'turned'), mmcv.imread(file, channel_order='rgb'))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(colour).save(tmp_path / 'turned.png', exif=exif)
    for color_type, shape in (('color', (8, 6, 3)), ('color_ignore_orientation', (6, 8, 3))):
        config, _ = config_and_checkpoint(tmp_path, 'fcn')
        config.test_dataloader.dataset.pipeline[0].color_type = color_type
        actual = EXAMPLE['read'](tmp_path / 'turned.png', told_of(config)['orientation'])
        assert actual.shape == shape
        assert np.array_equal(actual, mmcv.imread(str(tmp_path / 'turned.png'), color_type)[..., ::-1])


def test_the_example_takes_one_channel_as_two_classes(tmp_path, monkeypatch):
    logits = torch.linspace(-2, 2, 48).view(1, 1, 6, 8).numpy()
    about = dict(channels='RGB', mean=[0.0] * 3, std=[1.0] * 3, resize=None, pad=None, name='image', pad_size_divisor=1)
    about['padding'] = dict(size=None, value=0.0)
    message = dict(input=about, outputs=['logits'], task='segmentation', threshold=0.7)
    meta = SimpleNamespace(custom_metadata_map={'mmdistill_dense': json.dumps(message)})
    session = SimpleNamespace(get_modelmeta=lambda: meta, run=lambda names, argv: [logits])
    monkeypatch.setattr('onnxruntime.InferenceSession', lambda *_, **__: session)
    mmcv.imwrite(np.zeros((6, 8, 3), np.uint8), str(tmp_path / 'a.png'))
    actual = EXAMPLE['answer']('graph', str(tmp_path / 'a.png'))['labels']
    assert np.array_equal(actual, (torch.tensor(logits[0, 0]).sigmoid() > 0.7).long().numpy()) and actual.any()


def served(folder, graph):
    """What the example finds, with the imports of everything else blocked."""
    blocked = ('torch', 'mmcv', 'mmengine', 'mmseg', 'mmdet', 'cv2', 'mmdistill_dense')
    code = (
        'import sys, runpy, numpy as np\n'
        f'for name in {blocked}: sys.modules[name] = None\n'
        f'answer = runpy.run_path({str(SERVE)!r})["answer"]\n'
        f'found = answer({str(folder / graph)!r}, {str(folder / "photo.png")!r})\n'
        f'np.savez({str(folder / "found.npz")!r}, *found.values())'
    )
    subprocess.run([sys.executable, '-c', code], check=True)
    with np.load(folder / 'found.npz') as actual:
        return [actual[name] for name in actual.files]


# What is compared, and what a file declares


def compared(folder, monkeypatch, altered=None, sizes=SIZES, side='height'):
    """What `make_whole` describes where torch stands for onnxruntime, and the preparation may be ``altered``."""
    plain, network = loaded(folder, 'fcn')
    network.decode_head.conv_seg.weight.data *= 9
    graph, about = graph_of(network), told_of(plain)
    shape = ['batch', 3, side, 'width' if side == 'height' else sizes[0][1]]
    message = dict(task='segmentation', outputs=dict(logits=[1, 4, 9, 9]), input=dict(about, shape=shape))
    prepare, labels = Prepare({**about, **(altered or {})}), Labels(network, {})

    def run(one):
        image, *between = prepare(one)
        return [labels(*between, *graph.named_outputs(image).values())[0]]

    written = []
    for name in ('_ends', '_join'):
        monkeypatch.setattr(picture_graph, name, lambda *_: (None, None))
    monkeypatch.setattr(picture_graph, '_declare', lambda *_: None)
    monkeypatch.setattr('onnx.load', lambda _: None)
    monkeypatch.setattr(picture_graph, 'save_onnx', lambda model, file, about: written.append(about))
    monkeypatch.setattr(picture_graph, 'read_description', lambda _: message)
    monkeypatch.setattr(picture_graph, 'open_graph', lambda _: torch.no_grad()(run))
    picture_graph.make_whole(Path('s.onnx'), plain, network, sizes)
    return written[-1]['tried']


@pytest.mark.parametrize('altered', [
    dict(mean=[160.0, 90.0, 60.0]),
    dict(channels='BGR'),
    dict(resize=dict(scale=[160, 80], keep_ratio=True)),
])  # fmt: skip
def test_a_whole_graph_that_answers_otherwise_is_refused(tmp_path, monkeypatch, altered):
    with pytest.raises(ValueError, match=r'the graph gives \d\d?\.\d% of the 36995 labels that the network gives'):
        compared(tmp_path, monkeypatch, altered)


def test_a_whole_graph_is_compared_where_the_network_itself_runs(tmp_path, monkeypatch, capsys):
    tried = compared(tmp_path, monkeypatch)
    assert tried['pictures'] == [*map(list, SIZES)] and tried['equal'] > 0.999 and tried['classes'] > 1
    fixed = compared(tmp_path, monkeypatch, sizes=[(112, 160), *SIZES], side=112)
    assert fixed['pictures'] == [[112, 160]]

    def stops(network, plain, image):
        if image.shape[0] == SIZES[1][0]:
            raise RuntimeError('The size of tensor a (44) must match the size of tensor b (43)')
        return predict_image(network, plain, image)

    monkeypatch.setattr(picture_graph, 'predict_image', stops)
    assert compared(tmp_path, monkeypatch)['pictures'] == [[96, 128], [60, 200]]


@pytest.mark.parametrize(('shape', 'counted', 'declared'), [
    ([192, 256, 3], 'labels', [[192, 256, 3], [192, 256]]),
    (['height', 'width', 3], 'boxes', [['height', 'width', 3], ['n']]),
])  # fmt: skip
def test_a_file_declares_its_sizes_by_name_or_number(shape, counted, declared):
    from onnx import helper

    argv, made = (helper.make_tensor_value_info(name, 2, ['s64', 's96', 3]) for name in ('picture', 'labels'))
    body = helper.make_graph([helper.make_node('Identity', ['picture'], ['labels'])], 'g', [argv], [made])
    model = helper.make_model(body)
    picture_graph._declare(model, shape, counted)
    values = [*model.graph.input, *model.graph.output]
    assert [[dim.dim_param or dim.dim_value for dim in one.type.tensor_type.shape.dim] for one in values] == declared


def test_mmseg_reads_no_size_as_a_number_while_it_is_traced():
    from mmseg.models.utils import resize

    network = nn.Identity()
    network.encode_decode = lambda image, metas: torch.tensor([resize.__defaults__[-1]])
    assert not graph_of(network)(torch.zeros(1, 3, 8, 8))[0] and resize.__defaults__[-1]


@pytest.mark.parametrize(('tried', 'message'), [
    (dict(counted='labels', compared=9, classes=1), 'the network sees one class there, where all graphs agree'),
    (dict(counted='boxes', compared=0, classes=0), 'the network sees no box there, where all graphs agree'),
    (dict(counted='labels', compared=9, classes=2), ''),
])  # fmt: skip
def test_a_comparison_that_shows_nothing_says_so(tmp_path, monkeypatch, capsys, tried, message):
    config_and_checkpoint(tmp_path, 'fcn')
    about = dict(input=dict(shape=['height', 'width', 3]), tried=dict(tried, equal=1.0, pictures=[[9, 9]]))
    monkeypatch.setattr(graphs, 'read_description', lambda _: about)
    monkeypatch.setattr(write_student, 'export_graph', lambda *_: SimpleNamespace(path='s.onnx'))
    assert main(words_of(tmp_path, 's.onnx', '--whole')) == 0
    out = capsys.readouterr().out
    assert (message in out) if message else 'WARNING' not in out


# What graphs score


def test_a_graph_answers_in_the_network_s_place(tmp_path, monkeypatch):
    """A graph that sees one class everywhere is right where the labels have that class."""
    config, checkpoint = config_and_checkpoint(tmp_path, 'fcn')
    sizes_seen = []

    def everywhere(image):
        sizes_seen.append(image.shape)
        return [torch.eye(toys.NUM_CLASSES)[2].view(1, -1, 1, 1).expand(len(image), -1, *image.shape[2:])]

    monkeypatch.setattr(graphs, 'open_graph', lambda path: everywhere)
    message = dict(outputs=dict(logits=[]), input=dict(shape=['batch', 3, 'height', 'width']))
    monkeypatch.setattr(graphs, 'read_description', lambda path: message)
    metrics, milliseconds = evaluate(config, checkpoint, 'student.onnx')
    loader = toys.Runner.build_dataloader(config.val_dataloader)
    labels = torch.cat([batch['data_samples'][0].gt_sem_seg.data.flatten() for batch in loader])
    assert metrics['aAcc'] == pytest.approx(100 * (labels == 2).float().mean().item(), abs=0.01)
    assert len(sizes_seen) == 2 and milliseconds is not None and milliseconds > 0
    student_scores, untimed = evaluate(config, checkpoint, None)
    assert student_scores != metrics and untimed is None and len(sizes_seen) == 2
    config.val_dataloader.batch_size = 2
    assert evaluate(config, checkpoint, 'student.onnx')[0] == metrics
    message['input']['shape'][0] = 1  # a graph of single pictures
    assert evaluate(config, checkpoint, 'student.onnx')[0] == metrics
    assert [shape[0] for shape in sizes_seen] == [1, 1, 2, 1, 1]


@pytest.mark.parametrize('kind', ['retinanet', 'dino'])
def test_a_detector_s_graph_gives_its_boxes(tmp_path, kind):
    config, checkpoint = config_and_checkpoint(tmp_path, kind)
    network = load_student(config, checkpoint)[1].eval()
    network.bbox_head.test_cfg.score_thr = 0.0
    batch, graph = next(iter(toys.Runner.build_dataloader(config.train_dataloader))), graph_of(network)
    with torch.no_grad():
        (expected, *_) = network.test_step(batch)
        answers = graph.named_outputs(network.data_preprocessor(batch, False)['inputs'])
        graph.predict_with(lambda image: [tensor.clone() for tensor in answers.values()], list(answers))
        (actual, *_) = network.test_step(batch)
    assert len(expected.pred_instances) > 0
    assert torch.equal(actual.pred_instances.bboxes, expected.pred_instances.bboxes)
