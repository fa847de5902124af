"""Graphs in 8 bits, and the scores of graphs by the network's own evaluation."""

import pytest
import torch
from torch import nn

from mmdistill_dense.__main__ import main
from mmdistill_dense.apps.export import graphs, open_graph, read_description
from mmdistill_dense.apps.export import write_student as evaluating
from mmdistill_dense.apps.export.graphs import graph_of, write_onnx
from mmdistill_dense.apps.export.write_student import evaluate, fitted, load_student, quantise
from tests import toys


def made(tmp_path, kind='fcn', build=toys.seg_net, run=toys.run_config):
    """A config that distils, or of a detector, and a checkpoint of its student."""
    option = build(kind)
    model = option if build is toys.det_net else toys.model_config(option, toys.seg_net('fcn', allow_random=True))
    network = toys.build_plain(option, seed=3)
    torch.save(dict(state_dict=network.state_dict(), meta={}), tmp_path / 'student.pth')
    return run(tmp_path, model), tmp_path / 'student.pth'


def test_a_graph_answers_in_the_network_s_place(tmp_path, monkeypatch):
    """A graph that sees one class everywhere is right where the labels have that class."""
    config, checkpoint = made(tmp_path)
    seen = []

    def everywhere(image):
        seen.append(image.shape)
        return [torch.eye(toys.NUM_CLASSES)[2].view(1, -1, 1, 1).expand(len(image), -1, *image.shape[2:])]

    monkeypatch.setattr(graphs, 'open_graph', lambda path: everywhere)
    told = dict(outputs=dict(logits=[]), input=dict(shape=['batch', 3, 'height', 'width']))
    monkeypatch.setattr(graphs, 'read_description', lambda path: told)
    metrics, milliseconds = evaluate(config, checkpoint, 'student.onnx')
    loader = toys.Runner.build_dataloader(config.val_dataloader)
    labels = torch.cat([batch['data_samples'][0].gt_sem_seg.data.flatten() for batch in loader])
    assert metrics['aAcc'] == pytest.approx(100 * (labels == 2).float().mean().item(), abs=0.01)
    assert len(seen) == 2 and milliseconds is not None and milliseconds > 0
    own, untimed = evaluate(config, checkpoint, None)
    assert own != metrics and untimed is None and len(seen) == 2
    config.val_dataloader.batch_size = 2
    assert evaluate(config, checkpoint, 'student.onnx')[0] == metrics
    told['input']['shape'][0] = 1  # a graph of single pictures
    assert evaluate(config, checkpoint, 'student.onnx')[0] == metrics
    assert [shape[0] for shape in seen] == [1, 1, 2, 1, 1]


def test_a_detector_s_graph_gives_its_boxes(tmp_path):
    config, checkpoint = made(tmp_path, 'retinanet', toys.det_net, toys.det_run_config)
    _, network, _, _ = load_student(config, checkpoint)
    network.eval().bbox_head.test_cfg.score_thr = 0.0
    batch = next(iter(toys.Runner.build_dataloader(config.train_dataloader)))
    graph = graph_of(network)
    with torch.no_grad():
        (expected, *_) = network.test_step(batch)
        kept = [tensor.clone() for tensor in graph(network.data_preprocessor(batch, False)['inputs'])]
        names = list(graph.named(network.data_preprocessor(batch, False)['inputs']))
        graph.answer_by(lambda image: kept, names)
        (found, *_) = network.test_step(batch)
    assert len(expected.pred_instances) > 0
    assert torch.equal(found.pred_instances.bboxes, expected.pred_instances.bboxes)


class Small(nn.Module):
    """Stands for a network."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, image):
        return (self.conv(image),)


def test_calibration_takes_the_same_pictures_again_in_the_size_of_a_graph(tmp_path, monkeypatch):
    kept = []
    monkeypatch.setattr(evaluating, 'fitted', lambda image, told: kept.append(image) or fitted(image, told))
    config, checkpoint = made(tmp_path)
    plain, network, _, _ = load_student(config, checkpoint)
    told = dict(shape=[1, 3, 48, 32], pad_size_divisor=1, smallest=[48, 32])
    write_onnx(Small(), torch.zeros(1, 3, 48, 32), [], tmp_path / 's.onnx', dict(outputs=['logits'], input=told))
    for _ in range(2):
        quantise(plain, network, tmp_path / 's.onnx', tmp_path / 's.int8.onnx', 2)
    assert [image.shape for image in kept] == [(1, 3, toys.SIDE, toys.SIDE)] * 4
    assert all(map(torch.equal, kept[:2], kept[2:])) and not torch.equal(*kept[:2])
    assert open_graph(tmp_path / 's.int8.onnx')(torch.zeros(1, 3, 48, 32))[0].shape == (1, 4, 46, 30)
    free = dict(shape=['batch', 3, 'height', 'width'], pad_size_divisor=32, smallest=[32, 32])
    picture = torch.zeros(1, 3, 33, 64)
    assert fitted(picture, dict(free, smallest=[64, 96])).shape == (1, 3, 64, 96)
    assert fitted(picture, free).shape == (1, 3, 64, 64) and fitted(picture, dict(free, pad_size_divisor=1)) is picture


@pytest.mark.soak
def test_int8_of_a_segmentor(tmp_path, capsys):
    config, checkpoint = made(tmp_path)
    config.dump(tmp_path / 'c.py')
    plain, path = tmp_path / 's.onnx', tmp_path / 's.int8.onnx'
    words = [str(tmp_path / 'c.py'), str(checkpoint), str(plain), '--int8', '8', '--evaluate']
    assert main(['export', *words]) == 0
    printed = capsys.readouterr().out
    assert all(f'\n{name}: aAcc ' in printed for name in ('network', plain.name, path.name))
    assert printed.count(' ms a call') == 2
    assert path.stat().st_size < 0.6 * plain.stat().st_size
    assert read_description(path) == read_description(plain)
    image = torch.randn(2, 3, 71, 97, generator=torch.Generator().manual_seed(0))
    (exact,), (coarse,) = open_graph(plain)(image), open_graph(path)(image)
    assert 1e-4 < (exact - coarse).abs().max() / exact.abs().max() < 0.5
    assert (exact.argmax(1) == coarse.argmax(1)).float().mean() > 0.8
