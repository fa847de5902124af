"""``mmdistill export --whole``: one ONNX graph from a picture as it is read to its label map, or to boxes and masks."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmcv.transforms import Compose
from mmengine.config import Config
from torch import Tensor, nn

from mmdistill_dense.apps.export.graphs import Run, onnx_of, open_graph, read_description, save_onnx, traced
from mmdistill_dense.apps.export.postprocess import Detections, Labels, Queries, translations
from mmdistill_dense.apps.export.without_package import drop_label_steps, read_files
from mmdistill_dense.apps.inspect.inference import predict_items
from mmdistill_dense.config.values import layers, listed, tested_set, type_name
from mmdistill_dense.utils.validate import first_line, size_text

_MIN_EQUAL = 0.98  # share of labels or boxes; rounding moves pixels between classes, and boxes over thresholds
_PASSED = ('frame', 'factor', 'shown')  # pass by the network
_OUTPUTS = {
    'boxes': 'x1, y1, x2, y2 in pixels of the picture (n, 4), best first',
    'scores': 'of each box (n)',
    'labels': 'the class of each box (n), or of each pixel (height, width)',
    'masks': 'of each box, at the size of the picture (n, height, width), bool',
}


def test_steps(config: Mapping[str, Any]) -> list[Any]:
    """Return the steps of a plain config's test pipeline; none of a set without one."""
    return next((option['pipeline'] for _, option in layers(tested_set(config)) if option.get('pipeline')), [])


def picture_pipeline(config: Mapping[str, Any]) -> tuple[Compose, Compose]:
    """Return what reads a picture's file, and the other steps of a plain config's test pipeline, without labels."""
    load, *others = drop_label_steps(test_steps(config))
    read_files(load := dict(load))
    return Compose([load]), Compose(others)


def predict_image(network: Any, config: Mapping[str, Any], image: np.ndarray) -> Any:
    """Return what a network predicts for a picture (H, W, 3), RGB, uint8, through the test pipeline of its config."""
    load, prepare = picture_pipeline(config)
    kind = np.float32 if getattr(load.transforms[0], 'to_float32', False) else np.uint8
    pixels, sides = np.ascontiguousarray(image[..., ::-1], kind), image.shape[:2]
    data = prepare({'img': pixels, 'img_shape': sides, 'ori_shape': sides, 'img_path': None, 'img_id': 0})
    return predict_items(network, [data])[0][0]


def preparation(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``orientation``, ``resize`` and ``pad`` of a plain config's test pipeline, ``None`` without such a step.

    Photographs are read as ``'turned'`` by EXIF, or as ``'stored'``. ``resize`` has ``scale`` (width, height) and
    ``keep_ratio``; ``pad`` has ``size`` (width, height), ``divisor``, ``square`` and ``value``. A step that these words
    do not say raises.
    """
    steps: dict[str, Any] = {'orientation': 'turned', 'resize': None, 'pad': None}
    for step in test_steps(config):
        name, options = type_name(step), {key: value for key, value in step.items() if key != 'type'}
        scale, method = options.get('scale'), (options.get('interpolation', 'bilinear'), options.get('backend', 'cv2'))
        if name == 'Resize' and scale and method == ('bilinear', 'cv2') and not (steps['resize'] or steps['pad']):
            scale = [scale] * 2 if isinstance(scale, int) else [*scale]
            steps['resize'] = {'scale': scale, 'keep_ratio': bool(options.get('keep_ratio'))}
        elif name == 'Pad' and not steps['pad'] and options.get('padding_mode', 'constant') == 'constant':
            value = options.get('pad_val', 0)
            value = value.get('img', 0) if isinstance(value, Mapping) else value
            values = {*listed(value)} or {0}
            if len(values) > 1:
                raise ValueError(f'Pad of the test pipeline has pad_val {value}, and not one value for all channels')
            size, square = listed(options.get('size')) or None, bool(options.get('pad_to_square'))
            pad = {'size': size, 'divisor': options.get('size_divisor') or 1, 'square': square}
            steps['pad'] = {**pad, 'value': float(values.pop())}
        elif name.startswith('LoadImage') and 'color_type' in options:
            if options['color_type'] == 'grayscale':
                raise ValueError('the test pipeline reads pictures as grayscale; known are three channels')
            steps['orientation'] = 'turned' if options['color_type'] == 'color' else 'stored'
        elif not name.startswith(('Load', 'Pack')):
            arguments = ', '.join(f'{key}={value!r}' for key, value in options.items())
            supported = 'known are one bilinear Resize to a scale and, after it, one Pad with a constant'
            raise ValueError(f'the test pipeline has {name}({arguments}); {supported}')
    return steps


class Prepare(nn.Module):
    """An RGB picture (H, W, 3) in uint8 to ``image``, ``frame``, ``factor``, ``shown``, by a description's ``input``.

    ``image`` is what the network takes, ``frame`` what the pipeline gives before that (boxes end at its edges),
    ``factor`` (2) the ratio of the resize in width and height, and ``shown`` the picture.
    """

    def __init__(self, description: Mapping[str, Any]) -> None:
        super().__init__()
        self.description = description
        self.order = [0, 1, 2] if description['channels'] == 'RGB' else [2, 1, 0]
        self.mean, self.std = (torch.tensor(description[name]).view(1, 3, 1, 1) for name in ('mean', 'std'))

    def forward(self, picture: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        # sizes as tensors: float64 gives the sizes that mmcv gives
        ones = torch.ones_like(picture[:, :, 0], dtype=torch.float64)
        sides = torch.stack([ones[:, 0].sum(), ones[0].sum()])
        pixels, resize, factor = picture.float(), self.description['resize'], torch.ones(2)
        if resize:
            scale = resize['scale']
            target = torch.tensor(scale[::-1])
            if resize['keep_ratio']:
                target = (sides * torch.minimum(max(scale) / sides.max(), min(scale) / sides.min()) + 0.5).long()
            pixels = resize_pixels(pixels, sides, target)
            factor = (target / sides).float().flip(0)
        frame = pad_pixels(pixels.permute(2, 0, 1)[None], self.description['pad'] or {})
        image = (frame[:, self.order] - self.mean) / self.std
        image = pad_pixels(image, {**self.description['padding'], 'divisor': self.description['pad_size_divisor']})
        return image, frame, factor, picture.clone()


def resize_pixels(pixels: Tensor, sides: Tensor, target: Tensor) -> Tensor:
    """Resize pixels (H, W, 3) of whole numbers to ``target`` (height, width) with OpenCV's steps and roundings."""

    def taps(axis: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the two neighbours of each new row or column, and their weights in 2048ths."""
        count: Any = target[axis].item()
        torch._check(count >= 2)  # for torch.export, which reads the size from a tensor
        last = (sides[axis] - 1).long()
        position = ((torch.arange(count).double() + 0.5) * (1 / (target[axis] / sides[axis])) - 0.5).float()
        lower = position.floor()
        share = position - lower
        if axis == 1:  # of columns, OpenCV takes one neighbour beyond the edges; of rows, the same one twice
            share = torch.where((lower < 0) | (lower >= last), torch.zeros(()), share)
        units = (2048 * share).round()
        low, high = (torch.minimum((lower.long() + step).clamp(min=0), last) for step in (0, 1))
        return low, high, 2048 - units, units

    left_tap, right, near, far = taps(1)
    wide = pixels[:, left_tap] * near[:, None] + pixels[:, right] * far[:, None]
    wide = (wide / 16).floor()
    top, low, near, far = taps(0)
    near, far = near[:, None, None] / 65536, far[:, None, None] / 65536
    return (((wide[top] * near).floor() + (wide[low] * far).floor() + 2) / 4).floor()


def pad_pixels(pixels: Tensor, pad: Mapping[str, Any]) -> Tensor:
    """Pad pixels (1, 3, H, W) at the right and lower edge."""
    sides: list[Any] = list(pixels.shape[2:])
    if pad.get('square'):
        sides = [torch.sym_max(*sides)] * 2
    if pad.get('size'):
        sides = [torch.sym_max(side, least) for side, least in zip(sides, pad['size'][::-1], strict=True)]
    step = pad.get('divisor') or 1
    below, right = ((side + step - 1) // step * step - old for side, old in zip(sides, pixels.shape[2:], strict=True))
    if step == 1 and not pad.get('square') and not pad.get('size'):
        return pixels.clone()
    return F.pad(pixels, (0, right, 0, below), value=pad['value'])


def check_possible(plain: Config) -> None:
    """Refuse a config whose pictures no whole graph prepares, or predicts, as it says."""
    preparation(plain)
    if (plain.model.get('test_cfg') or {}).get('mode') == 'slide':
        raise ValueError(
            "test_cfg.mode='slide' predicts by windows, as many as the picture needs: set mode='whole' and measure it, "
            'or run the graph without --whole on each window.'
        )


def make_whole(file: Path, plain: Config, network: Any, sizes: Sequence[Sequence[int]]) -> None:
    """Put a picture's preparation before a graph of a network, and its answer behind it, in the same file.

    ``sizes`` are those of the pictures that it is compared with the network on, first that of the graph.
    """
    import onnx

    description = read_description(file)
    kind: Any = Queries if 'bbox_preds' in description['outputs'] else Detections
    kind, counted = (Labels, 'labels') if description['task'] == 'segmentation' else (kind, 'boxes')
    prepare, answer = Prepare(description['input']), kind(network, description)
    shape = _picture_shape(prepare, *description['input']['shape'][2:])
    pairs: list[tuple[Tensor, Any]] = []
    for image in (picture(*size) for size in (sizes if 'height' in shape else sizes[:1])):
        try:
            pairs.append((image, predict_image(network, plain, image.numpy())))
        except RuntimeError:  # branches of some networks meet at multiples of 8 alone; a whole graph pads
            if not pairs:
                raise
    about = {**description, 'network': description['input'], 'outputs': {name: _OUTPUTS[name] for name in answer.names}}
    about['input'] = {'name': 'picture', 'layout': 'HWC', 'dtype': 'uint8', 'channels': 'RGB', 'shape': shape}
    about['input']['orientation'] = description['input']['orientation']
    about['note'] = 'all is inside: resize, normalisation, padding, network, and what makes the answer'
    try:
        front, back = _ends(prepare, answer, description['outputs'])
    except Exception as error:  # torch.export raises many kinds
        heads = ', '.join(type(part).__name__ for name, part in network.named_children() if name.endswith('head'))
        text = f'{type(network).__name__} ({heads}) answers by values: {first_line(error)}'
        raise ValueError(f'{text}. Leave --whole out: mmdet makes the answer of what the bare graph gives.') from error
    whole = _join(front, onnx.load(str(file)), back)
    _declare(whole, shape, counted)
    save_onnx(whole, file, about)
    equal, compared = agreement(open_graph(file), pairs)
    if compared and equal < _MIN_EQUAL:
        raise ValueError(f'the graph gives {equal:.1%} of the {compared} {counted} that the network gives.')
    about['tried'] = {'pictures': [[*image.shape[:2]] for image, _ in pairs], 'compared': compared, 'counted': counted}
    labels = torch.cat([labels_of(sample) for _, sample in pairs])
    about['tried'] |= {'equal': equal, 'classes': len(labels.unique())}  # where it is one, or none, all graphs agree
    save_onnx(whole, file, about)


def labels_of(sample: Any) -> Tensor:
    """Return the predicted labels of a sample's pixels, or of its boxes."""
    return sample.pred_sem_seg.data.flatten() if 'pred_sem_seg' in sample else sample.pred_instances.labels


def _picture_shape(prepare: Prepare, height: Any, width: Any) -> list[Any]:
    """Return the shape of pictures for a network of a size: free if it has none, or the pipeline makes it of all."""
    if not isinstance(height, int):
        return ['height', 'width', 3]
    pictures = (picture(*sides) for sides in ((height, width), (height + 9, width), (height, width // 2)))
    with torch.no_grad():
        size, *others = ([*prepare(image)[0].shape[2:]] for image in pictures)
    if size != [height, width]:
        raise ValueError(
            f'the network takes pictures of {height}x{width} alone, and the test pipeline makes '
            f'{size_text(size)} of them: --size H W with the size that the pipeline makes.'
        )
    return ['height', 'width', 3] if others == [size] * 2 else [height, width, 3]


def _declare(whole: Any, shape: Sequence[Any], counted: str) -> None:
    """Name the free sides of the picture and of the outputs, which three graphs named by numbers."""
    sides: dict[str, Sequence[Any]] = {'picture': shape, 'boxes': ('n', 4), 'masks': ('n', *shape[:2])}
    sides |= {'labels': shape[:2]} if counted == 'labels' else {}
    for tensor in (*whole.graph.input, *whole.graph.output):
        dims = tensor.type.tensor_type.shape
        dims.Clear()
        for side in sides.get(tensor.name, ('n',)):
            dims.dim.add(**{'dim_value' if isinstance(side, int) else 'dim_param': side})


def _ends(prepare: Prepare, answer: Any, outputs: Mapping[str, Sequence[int]]) -> tuple[Any, Any]:
    """Return what a whole graph has before and behind a network with these outputs, as ONNX."""
    shown, frame, factor = picture(40, 56), torch.rand(1, 3, 37, 53), torch.rand(2)
    maps: dict[Tensor, Sequence[int]] = {}
    for name, shape in outputs.items():
        if len(shape) == 4:  # sides above 1 that differ from those of other levels
            level = int(name.rpartition('_')[2]) if name[-1].isdigit() else 0
            maps[torch.rand(1, shape[1], 23 - 2 * level, 29 - 3 * level)] = (2, 3)
        else:
            maps[torch.rand(shape)] = ()
    front = onnx_of(traced(prepare, {shown: (0, 1)}), ['picture'], ['image', *_PASSED])
    behind = traced(answer, {frame: (2, 3), factor: (), shown: (0, 1), **maps})
    options = {'custom_translation_table': translations()}
    return front, onnx_of(behind, [*_PASSED, *outputs], list(answer.names), **options)


def _join(front: Any, network: Any, back: Any) -> Any:
    """Return the graph of a network between both ends."""
    from onnx.compose import merge_models

    network.ir_version = front.ir_version
    links = [(f'network/{output.name}', output.name) for output in network.graph.output]
    links += [(f'prepare/{name}', name) for name in _PASSED]
    whole = merge_models(front, network, [('image', 'image')], prefix1='prepare/', prefix2='network/')
    whole = merge_models(whole, back, links)
    whole.graph.input[0].name = 'picture'
    for node in whole.graph.node:
        node.input[:] = ['picture' if name == 'prepare/picture' else name for name in node.input]
    return whole


def picture(height: int, width: int, seed: int = 0) -> Tensor:
    """Return a picture (height, width, 3) in uint8 with shapes of several sizes."""
    generator = torch.Generator().manual_seed(seed)
    noise = (torch.randn(1, 3, cells, cells, generator=generator) for cells in (3, 7, 17, 41))
    parts = [F.interpolate(cells, (height, width), mode='nearest') for cells in noise]
    return (128 + 40 * torch.stack(parts).sum(0)[0]).clamp(0, 255).byte().permute(1, 2, 0).contiguous()


def agreement(run: Run, pairs: Iterable[tuple[Tensor, Any]]) -> tuple[float, int]:
    """Return the share of the labels or boxes of predictions that a whole graph gives too, and how many there were."""
    same, number = 0, 0
    for image, sample in pairs:
        answer, labels, is_map = run(image), labels_of(sample), 'pred_sem_seg' in sample
        same += int((answer[0].flatten() == labels).sum()) if is_map else count_matches(sample.pred_instances, answer)
        number += max(len(labels), len(answer[0]))  # a map has fewer rows than labels
    return same / max(number, 1), number


def count_matches(expected: Any, answer: Sequence[Tensor], overlap: float = 0.99, score: float = 1e-3) -> int:
    """Count the boxes that both have: the same label, IoU and scores as close as said; masks equal by 99 %."""
    from mmdet.structures.bbox import bbox_overlaps
    from scipy.optimize import linear_sum_assignment  # which mmdet needs

    boxes, scores, labels, *masks = answer
    boxes = boxes.to(expected.bboxes)
    close = torch.isclose(expected.bboxes[:, None], boxes[None]).all(-1)  # those without an area have no IoU
    close |= bbox_overlaps(expected.bboxes, boxes) >= overlap
    close &= (expected.scores[:, None] - scores[None]).abs() <= score
    close &= expected.labels[:, None] == labels[None]
    for mask in masks:
        flat, other = expected.masks.flatten(1).float(), mask.flatten(1).float()
        shared = flat @ other.T
        close &= shared >= 0.99 * (flat.sum(1)[:, None] + other.sum(1)[None] - shared) - 1
    return int(close[linear_sum_assignment(close, maximize=True)].sum())  # each counts once
