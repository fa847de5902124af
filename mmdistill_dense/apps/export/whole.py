"""``mmdistill export --whole``: one ONNX graph from a picture to its label map, or to boxes and masks."""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmcv.transforms import Compose
from mmengine.config import Config
from torch import Tensor, nn

from mmdistill_dense.apps.export.answer import Detections, Labels, translations
from mmdistill_dense.apps.export.graphs import ENTRY, check_spared, open_graph, read_description, require_onnx
from mmdistill_dense.apps.export.prepare import Prepare, preparation
from mmdistill_dense.apps.export.without_package import without_labels
from mmdistill_dense.apps.export.write_student import ENDING, Exported, export_graph, load_student, quantise
from mmdistill_dense.config.values import layers, tested_set
from mmdistill_dense.utils.files import write_whole

_LEAST = 0.98  # of labels or boxes that must be equal; rounding moves pixels between classes and boxes over thresholds


@dataclass
class Whole:
    paths: list[Path]  # the graph, and perhaps that in 8 bits
    network: Exported  # what was found of the network inside
    equal: float  # the share of labels or boxes that are those of the network
    compared: int  # how many labels or boxes
    sizes: list[list[int]]  # of the pictures that were tried
    alone: bool  # whether the graph takes pictures of one size
    counted: str  # ``'labels'`` or ``'boxes'``


def export_whole(
    config: Config, checkpoint: str | Path, out: str | Path, size: Sequence[int] | None = None, int8: int | None = None
) -> Whole:
    """Write a graph that takes an RGB picture (H, W, 3) in uint8 and gives what mmseg or mmdet predicts for it.

    Args:
        config: As of :func:`export_graph`.
        checkpoint: As there.
        out: The file, ``.onnx``.
        size: As there; also the size of the pictures if the graph takes one alone.
        int8: Pictures for a second graph whose backbone, neck and dense heads are in 8 bits.
    """
    path = Path(out)
    if path.suffix != '.onnx':
        raise ValueError(f'out={str(out)!r}: a whole graph ends in .onnx.')
    require_onnx()
    paths = [path] if int8 is None else [path, path.with_suffix(ENDING)]
    for one in paths:
        check_spared(one, checkpoint)
    plain, network, _, _ = load_student(config, checkpoint)
    preparation(plain)
    if (plain.model.get('test_cfg') or {}).get('mode') == 'slide':
        raise ValueError(
            "test_cfg.mode='slide' predicts by windows, a whole graph at once: set mode='whole', and measure it."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        inner = export_graph(config, checkpoint, Path(folder, 'network.onnx'), size)
        graphs = [inner.path] if int8 is None else [inner.path, quantise(config, checkpoint, inner.path, int8)]
        told = read_description(inner.path)
        ends = Ends(network, told)
        alone = _takes_one(ends.prepare, told)
        sizes = _sizes(inner.size, alone)
        told = {**told, 'network': told.pop('input'), **ends.described(inner.size if alone else None)}
        unfinished = Path(folder, 'whole.onnx')
        ends.join(inner.path, unfinished, told)
        equal, compared = compare(unfinished, plain, network, [picture(*one) for one in sizes])
        if equal < _LEAST:
            raise ValueError(f'the graph gives {equal:.1%} of the {compared} {ends.counted} that the network gives.')
        told['tried'] = {'pictures': sizes, 'compared': compared, 'counted': ends.counted, 'equal': equal}
        for graph, one in zip(graphs, paths, strict=True):
            ends.join(graph, unfinished, told)
            unfinished.replace(one)
    return Whole(paths, inner, equal, compared, sizes, alone, ends.counted)


class Ends:
    """What a whole graph has before and behind the network."""

    def __init__(self, network: Any, told: Mapping[str, Any]) -> None:
        self.prepare = Prepare(told['input'])
        segments = told['task'] == 'segmentation'
        self.counted = 'labels' if segments else 'boxes'
        names = list(told['outputs'])
        self.answer: Any = Labels(network, told.get('threshold')) if segments else Detections(network, names)
        maps = [torch.rand(1, *_shape(name, shape)) for name, shape in told['outputs'].items()]
        self.front = _onnx(self.prepare, {'picture': picture(40, 56)}, ['image', 'frame', 'factor', 'shown'])
        between = {'frame': torch.rand(1, 3, 37, 53), 'factor': torch.rand(2), 'shown': picture(40, 56)}
        self.back = _onnx(self.answer, {**between, **dict(zip(names, maps, strict=True))}, self.answer.names)

    def join(self, inner: Path, out: Path, told: Mapping[str, Any]) -> None:
        """Write the graph of a network between both ends."""
        import onnx

        network = onnx.load(str(inner))
        before, passed = ['frame', 'factor', 'shown'], [one.name for one in network.graph.output]
        first = onnx.compose.merge_models(
            self.front, network, [('image', 'image')], prefix1='prepare/', prefix2='network/'
        )
        links = [(f'prepare/{name}', name) for name in before] + [(f'network/{name}', name) for name in passed]
        whole = onnx.compose.merge_models(first, self.back, links)
        whole.graph.input[0].name = 'picture'
        for node in whole.graph.node:
            node.input[:] = ['picture' if name == 'prepare/picture' else name for name in node.input]
        onnx.helper.set_model_props(whole, {ENTRY: json.dumps(told)})
        write_whole(out, whole.SerializeToString())

    def described(self, size: Sequence[int] | None) -> dict[str, Any]:
        shape = ['height', 'width', 3] if size is None else [*size, 3]
        notes = {
            'boxes': 'x1, y1, x2, y2 in pixels of the picture (n, 4), best first',
            'scores': 'of each box (n)',
            'labels': 'the class of each box (n)',
            'masks': 'of each box, at the size of the picture (n, height, width), bool',
        }
        if self.counted == 'labels':
            notes['labels'] = 'the class of each pixel (height, width)'
        return {
            'input': {'name': 'picture', 'layout': 'HWC', 'dtype': 'uint8', 'channels': 'RGB', 'shape': shape},
            'outputs': {name: notes[name] for name in self.answer.names},
            'note': 'all is inside: resize, normalisation, padding, network, and what makes the answer',
        }


def _shape(name: str, shape: Sequence[int]) -> tuple[int, int, int]:
    """Return a shape for a map with sides above 1 that differ from those of other levels."""
    level = int(name.rpartition('_')[2]) if name[-1].isdigit() else 0
    return shape[1], 23 - 2 * level, 29 - 3 * level


def _onnx(module: nn.Module, given: Mapping[str, Tensor], names: Sequence[str]) -> Any:
    sides: Any = {1: (), 3: (0, 1), 4: (2, 3)}  # of factor, pictures and maps
    free: Any = tuple(dict.fromkeys(sides[value.ndim], torch.export.Dim.DYNAMIC) for value in given.values())
    if len(given) > 1 and 'frame' in given:  # forward takes the maps as *maps
        free = (*free[:3], tuple(free[3:]))
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter('ignore')
        program = torch.export.export(module, tuple(given.values()), dynamic_shapes=free)
        made = torch.onnx.export(
            program,
            dynamo=True,
            input_names=list(given),
            output_names=list(names),
            verbose=False,
            custom_translation_table=translations(),
        )
    assert made is not None
    for node in made.model.graph.all_nodes():
        node.metadata_props.clear()
    return made.model_proto


def _takes_one(prepare: Prepare, told: Mapping[str, Any]) -> bool:
    """Tell whether pictures must have the network's size; refuse if those do not come out in it."""
    shape = told['input']['shape'][2:]
    if not all(isinstance(side, int) for side in shape):
        return False
    height, width = shape
    with torch.no_grad():
        made = [[*prepare(picture(*size))[0].shape[2:]] for size in (shape, (height + 9, width), (height, width // 2))]
    if made[0] != shape:
        raise ValueError(
            f'the network takes pictures of {height}x{width} alone, and the test pipeline makes '
            f'{"x".join(map(str, made[0]))} of them: --size H W with the size that the pipeline makes.'
        )
    return made != [shape] * 3


def _sizes(size: Sequence[int], alone: bool) -> list[list[int]]:
    height, width = size
    others = [[height + 7, width - 5], [width, height], [height // 2, width], [2 * height, 3 * width // 2]]
    return [[height, width], *([] if alone else others)]


def picture(height: int, width: int, seed: int = 0) -> Tensor:
    """Return a picture (height, width, 3) in uint8 with shapes of several sizes."""
    generator = torch.Generator().manual_seed(seed)
    parts = [
        F.interpolate(torch.randn(1, 3, places, places, generator=generator), (height, width), mode='nearest')
        for places in (3, 7, 17, 41)
    ]
    return (128 + 40 * torch.stack(parts).sum(0)[0]).clamp(0, 255).byte().permute(1, 2, 0).contiguous()


def predicted(plain: Config, network: Any, one: Tensor) -> Any:
    """Return what the network predicts for a picture through the test pipeline of its config."""
    steps = next(option['pipeline'] for _, option in layers(tested_set(plain)) if option.get('pipeline'))
    shape = tuple(one.shape[:2])
    given = {'img': np.ascontiguousarray(one.numpy()[..., ::-1]), 'img_shape': shape, 'ori_shape': shape}
    data = Compose(without_labels(steps)[1:])({**given, 'img_path': '', 'img_id': 0})
    with torch.no_grad():
        return network.test_step({'inputs': [data['inputs']], 'data_samples': [data['data_samples']]})[0]


def compare(path: Path, plain: Config, network: Any, pictures: Sequence[Tensor]) -> tuple[float, int]:
    """Return the share of labels or boxes of the network that a whole graph gives too, and how many there were."""
    run, same, number = open_graph(path), 0, 0
    network.eval()
    for one in pictures:
        sample, answer = predicted(plain, network, one), run(one)
        if 'pred_sem_seg' in sample:
            expected = sample.pred_sem_seg.data[0]
            same, number = same + int((answer[0] == expected).sum()), number + expected.numel()
        else:
            boxes = sample.pred_instances
            same, number = same + paired(boxes, answer), number + max(len(boxes), len(answer[0]))
    return same / max(number, 1), number


def paired(expected: Any, answer: Sequence[Tensor], overlap: float = 0.99, score: float = 1e-3) -> int:
    """Count the boxes that both have: the same label, IoU and scores as close as said; masks equal by 99 %."""
    boxes, scores, labels, *masks = answer
    first, second = expected.bboxes[:, None], boxes[None].to(expected.bboxes)
    low, high = torch.maximum(first[..., :2], second[..., :2]), torch.minimum(first[..., 2:], second[..., 2:])
    areas = [(one[..., 2:] - one[..., :2]).clamp(min=0).prod(-1) for one in (first, second)]
    inter = (high - low).clamp(min=0).prod(-1)
    close = (inter >= overlap * (sum(areas) - inter) - 1e-6) | torch.isclose(first, second).all(-1)
    close &= (expected.scores[:, None] - scores[None]).abs() <= score
    close &= expected.labels[:, None] == labels[None]
    for own in masks:
        flat, other = expected.masks.flatten(1).float(), own.flatten(1).float()
        both = flat @ other.T
        close &= both >= 0.99 * (flat.sum(1)[:, None] + other.sum(1)[None] - both) - 1
    free, found = [True] * len(boxes), 0
    for row in close.tolist():
        index = next((place for place, fits in enumerate(row) if fits and free[place]), None)
        if index is not None:
            free[index], found = False, found + 1
    return found
