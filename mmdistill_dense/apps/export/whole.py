"""``mmdistill export --whole``: one ONNX graph from a picture to its label map, or to boxes and masks."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmcv.transforms import Compose
from mmengine.config import Config
from torch import Tensor

from mmdistill_dense.apps.export.answer import Detections, Labels, Queries, translations
from mmdistill_dense.apps.export.graphs import ENTRY, onnx_of, open_graph, read_description, traced
from mmdistill_dense.apps.export.prepare import Prepare, preparation
from mmdistill_dense.apps.export.without_package import without_labels
from mmdistill_dense.config.values import layers, tested_set
from mmdistill_dense.utils.files import write_whole

_LEAST = 0.98  # of labels or boxes that must be equal; rounding moves pixels between classes and boxes over thresholds
_OUTPUTS = {
    'boxes': 'x1, y1, x2, y2 in pixels of the picture (n, 4), best first',
    'scores': 'of each box (n)',
    'labels': 'the class of each box (n), or of each pixel (height, width)',
    'masks': 'of each box, at the size of the picture (n, height, width), bool',
}


def check_possible(plain: Config) -> None:
    """Refuse a config whose pictures no whole graph prepares, or predicts, as it says."""
    preparation(plain)
    if (plain.model.get('test_cfg') or {}).get('mode') == 'slide':
        raise ValueError(
            "test_cfg.mode='slide' predicts by windows, as many as the picture needs: set mode='whole' and measure it, "
            'or run the graph without --whole on each window.'
        )


def make_whole(files: Sequence[Path], plain: Config, network: Any, sizes: Sequence[Sequence[int]]) -> None:
    """Put a picture's preparation before graphs of a network, and its answer behind them.

    Args:
        files: The graph, and perhaps that in 8 bits; they are replaced.
        plain: The config of the network.
        network: What the first graph is compared with.
        sizes: Of the pictures of the comparison, first that of the graph.
    """
    told = read_description(files[0])
    ends = Ends(network, told)
    alone, counted = _takes_one(ends.prepare, told), 'labels' if told['task'] == 'segmentation' else 'boxes'
    shape, sizes = ([*sizes[0], 3], sizes[:1]) if alone else (['height', 'width', 3], sizes)
    about = {
        **told,
        'network': told['input'],
        'input': {'name': 'picture', 'layout': 'HWC', 'dtype': 'uint8', 'channels': 'RGB', 'shape': shape},
        'outputs': {name: _OUTPUTS[name] for name in ends.answer.names},
        'note': 'all is inside: resize, normalisation, padding, network, and what makes the answer',
    }
    network.eval()
    pictures = [picture(*size) for size in sizes]
    for file in files:
        trial = file.with_name(f'trial.{file.name}')
        ends.join(file, trial, about)
        near = {} if file == files[0] else {'overlap': 0.9, 'score': 0.05}  # eight bits differ
        equal, compared = agreement(open_graph(trial), partial(predicted, plain, network), pictures, **near)
        if compared and equal < _LEAST and not near:
            raise ValueError(f'the graph gives {equal:.1%} of the {compared} {counted} that the network gives.')
        tried = {'pictures': [*sizes], 'compared': compared, 'counted': counted, 'equal': equal}
        ends.join(file, file, {**about, 'tried': tried})


class Ends:
    """What a whole graph has before and behind the network."""

    def __init__(self, network: Any, told: Mapping[str, Any]) -> None:
        self.prepare, names = Prepare(told['input']), list(told['outputs'])
        kind: Any = Labels if told['task'] == 'segmentation' else Detections
        self.answer = (Queries if 'bbox_preds' in names else kind)(network, told)
        shown, between = picture(40, 56), ['frame', 'factor', 'shown']
        frame, factor = torch.rand(1, 3, 37, 53), torch.rand(2)
        maps: dict[Tensor, Sequence[int]] = {}
        for name, shape in told['outputs'].items():
            if len(shape) == 4:  # sides above 1 that differ from those of other levels
                level = int(name.rpartition('_')[2]) if name[-1].isdigit() else 0
                maps[torch.rand(1, shape[1], 23 - 2 * level, 29 - 3 * level)] = (2, 3)
            else:
                maps[torch.rand(shape)] = ()
        self.front = onnx_of(traced(self.prepare, {shown: (0, 1)}), ['picture'], ['image', *between])
        behind = traced(self.answer, {frame: (2, 3), factor: (), shown: (0, 1), **maps})
        more = {'custom_translation_table': translations()}
        self.back = onnx_of(behind, [*between, *names], list(self.answer.names), **more)

    def join(self, inner: Path, out: Path, about: Mapping[str, Any]) -> None:
        """Write the graph of a network between both ends."""
        import onnx

        network = onnx.load(str(inner))
        network.ir_version = self.front.ir_version
        before, passed = ['frame', 'factor', 'shown'], [one.name for one in network.graph.output]
        first = onnx.compose.merge_models(
            self.front, network, [('image', 'image')], prefix1='prepare/', prefix2='network/'
        )
        links = [(f'prepare/{name}', name) for name in before] + [(f'network/{name}', name) for name in passed]
        whole = onnx.compose.merge_models(first, self.back, links)
        whole.graph.input[0].name = 'picture'
        for node in whole.graph.node:
            node.input[:] = ['picture' if name == 'prepare/picture' else name for name in node.input]
        onnx.helper.set_model_props(whole, {ENTRY: json.dumps(about)})
        write_whole(out, whole.SerializeToString())


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


def agreement(
    run: Callable[[Tensor], Sequence[Tensor]],
    expected: Callable[[Tensor], Any],
    pictures: Sequence[Tensor],
    **near: float,
) -> tuple[float, int]:
    """Return the share of the labels or boxes of predictions that a whole graph gives too, and how many there were."""
    same, number = 0, 0
    for one in pictures:
        sample, answer = expected(one), run(one)
        if 'pred_sem_seg' in sample:
            labels = sample.pred_sem_seg.data[0]
            same, number = same + int((answer[0] == labels).sum()), number + labels.numel()
        else:
            boxes = sample.pred_instances
            same, number = same + paired(boxes, answer, **near), number + max(len(boxes), len(answer[0]))
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
