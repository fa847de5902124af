"""``mmdistill export``: a student's weights with the plain config, or its graph, checked and scored."""

import argparse
import json
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

import torch
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmengine.structures import InstanceData, PixelData
from torch import Tensor, nn

from mmdistill_dense.apps.export import graphs
from mmdistill_dense.apps.export.picture_graph import check_possible, make_whole, preparation
from mmdistill_dense.apps.export.without_package import ORIGIN, header_lines, without_package
from mmdistill_dense.apps.recipes.named import read_config
from mmdistill_dense.config import values
from mmdistill_dense.config.resolve import ModelConfig
from mmdistill_dense.foundation.vit import ViT
from mmdistill_dense.foundation.vit_file import public_weights
from mmdistill_dense.networks.building import build_network
from mmdistill_dense.utils.files import save_whole, write_text, write_whole
from mmdistill_dense.utils.literals import assignments
from mmdistill_dense.utils.process import errors_only
from mmdistill_dense.utils.reproducible import without_workers
from mmdistill_dense.utils.validate import first_line, size_text
from mmdistill_dense.utils.version import __version__
from mmdistill_dense.weights import strict_load
from mmdistill_dense.weights.safe_load import SAFETENSORS_META


def export_backbone(config: Config, checkpoint: str | Path, out: str | Path, names: str | None = None) -> Path:
    """Write the weights of a student's backbone as ``init_cfg=dict(type='Pretrained', checkpoint=out)`` takes them."""
    # ``names``: as in a vision transformer's public files (original, timm), by default the original ones
    path = Path(out)
    if path.suffix != '.pth':
        raise ValueError(f'out={str(out)!r} must end in .pth.')
    graphs.check_overwrite(path, checkpoint)
    _, network, _, meta = load_student(config, checkpoint, ['backbone'])
    backbone: Any = network.backbone
    if names is not None and not isinstance(backbone, ViT):
        kind = type(backbone).__name__
        raise ValueError(f'names={names!r}: {kind} has one set of names; the option is for VisionTransformer.')
    names = names or ('original' if isinstance(backbone, ViT) else None)  # a file of our names is read by no one
    meta.pop('dataset_meta', None)  # classes are of the head
    save_whole({'meta': meta, 'state_dict': public_weights(backbone, names) if names else backbone.state_dict()}, path)
    return path


def evaluate(
    config: Config, checkpoint: str | Path, graph: Path | None = None
) -> tuple[dict[str, float], float | None]:
    """Evaluate a student, or a graph of it in its place, on the validation data of its config, on the CPU."""
    plain, network, _, _ = load_student(config, checkpoint)
    network.eval()
    data, spent = without_workers(plain.val_dataloader), list[float]()
    test_step: Any = network.test_step
    if graph is not None:
        run, description = graphs.open_graph(graph), graphs.read_description(graph)
        names, whole = list(description['outputs']), description['input'].get('name') == 'picture'
        if whole or description['input']['shape'][0] == 1:  # takes no batch
            data['batch_size'] = 1

        def timed(image: Tensor) -> list[Tensor]:
            start = time.perf_counter()
            outputs = run(image)
            spent.append(1000 * (time.perf_counter() - start))
            return outputs

        def answer(batch: Any) -> list[Any]:
            picture = batch['inputs'][0].permute(1, 2, 0).flip(2).contiguous()
            return [with_prediction(batch['data_samples'][0], names, timed(picture))]

        if whole:
            steps: list[Any] = values.pipeline_of(data['dataset'])
            for step in steps:  # leaves pictures as read
                if values.type_name(step) in ('Resize', 'Pad'):
                    step.clear()
                    step.update(type='Resize', scale_factor=1.0)
            test_step = answer
        else:
            graphs.graph_of(network).predict_with(timed, names)
    loader = Runner.build_dataloader(data)
    evaluator = Evaluator(plain.val_evaluator)
    evaluator.dataset_meta = getattr(loader.dataset, 'metainfo', None)
    with torch.no_grad():
        for batch in loader:
            evaluator.process(data_samples=test_step(batch), data_batch=batch)
    return evaluator.evaluate(len(loader.dataset)), median(spent) if spent else None


def with_prediction(sample: Any, names: Sequence[str], answer: Sequence[Tensor]) -> Any:
    """Return a data sample with the outputs of a whole graph as its prediction."""
    outputs = dict(zip(names, answer, strict=True))
    if 'boxes' in outputs:
        sample.pred_instances = InstanceData(bboxes=outputs.pop('boxes'), **outputs)
    else:
        sample.pred_sem_seg = PixelData(data=outputs['labels'][None].long())
    return sample


# onnxruntime sums in another order. Root mean squares of differences, over those of outputs, are up to 2e-5 for that:
# a PIDNet of 1024x1024 in float32 and in float64, whose worst pixel, where attention is steep, differs by 1e-3 of the
# largest value. What is wrong shows above 1e-3: adaptive pooling at another size gave 5e-3 for a PSPNet.
TOLERANCE = 1e-4


@dataclass
class Exported:
    path: Path
    outputs: list[str]  # of the network
    difference: float  # largest difference to the network's output, over the largest value of that output
    smallest: list[int]  # height and width that it takes
    axes: list[str]  # that may have any size
    reasons: list[str]  # why not more axes are free
    size: tuple[int, int]  # of the pictures that it was made with
    step: int  # free sides are multiples of it


def export_student(config: Config, checkpoint: str | Path, out: str | Path) -> tuple[Path, Path]:
    """Write a distilled student as an ordinary network; return the paths of its weights and of its plain config.

    The config runs without this package, see :func:`without_package`; its head says what had to be left out for that.

    Args:
        config: The config the student was trained with (one with a ``DistillModel``, or any plain config).
        checkpoint: A checkpoint of that run.
        out: The weights' path, ``.pth`` or ``.safetensors``; the config gets the same name with ``.py``.
    """
    weights = Path(out)
    if weights.suffix not in graphs.WEIGHTS:
        raise ValueError(f'out={str(out)!r} must end in .pth or .safetensors; the config is written beside it (.py).')
    graphs.check_overwrite(weights, checkpoint)
    path = weights.with_suffix('.py')
    if path.is_file() and not path.read_text('utf-8', 'replace').partition('\n')[0].rstrip().endswith(ORIGIN):
        problem = f'the config is written beside it, and {path} is a config of yours'
        raise FileExistsError(f'out={str(out)!r}: {problem}. Choose another name.')
    plain, _, state, meta = load_student(config, checkpoint)
    bare, dropped, needed = without_package(plain, meta)
    head = header_lines(weights, dropped, needed, config, checkpoint)
    write_text(path, f'{head}{assignments(bare.to_dict())}')  # first: weights alone would pass for both
    if weights.suffix == '.pth':
        save_whole({'meta': meta, 'state_dict': state}, weights)
    else:
        from safetensors.torch import save  # type: ignore[import-not-found,unused-ignore]

        data = {key: meta['student'][key] for key in ('classes', 'palette')}
        tensors = {name: tensor.contiguous().clone() for name, tensor in state.items()}
        meta_text = {'format': 'pt', SAFETENSORS_META: json.dumps({**meta, 'dataset_meta': data})}
        write_whole(weights, save(tensors, meta_text))
    return weights, path


def export_graph(
    config: Config, checkpoint: str | Path, out: str | Path, size: Sequence[int] | None = None, whole: bool = False
) -> Exported:
    """Write the graph of a distilled student in one self-describing file, and compare its outputs.

    Batch and size stay free if the network allows that; else the batch alone, else nothing.

    Args:
        config: As of :func:`export_student`.
        checkpoint: As there.
        out: The file: ``.onnx`` or ``.pt2`` (``torch.export``).
        size: Height and width of the image that is used for it, and the only size if none is free. Default: that of
            the data preprocessor; else that of the test pipeline, rounded up to multiples of 32; else 512 x 512.
        whole: The graph takes an RGB picture (H, W, 3) in uint8 and gives what mmseg or mmdet predicts for it.
    """
    path = Path(out)
    if not graphs.is_graph(path):
        raise ValueError(f'out={str(out)!r}: {path.suffix} holds weights; graphs are {" and ".join(graphs.GRAPHS)}.')
    if whole and path.suffix != '.onnx':
        raise ValueError(f'out={str(out)!r}: whole graphs end in .onnx.')
    if path.suffix == '.onnx':
        graphs.require_onnx()
    graphs.check_overwrite(path, checkpoint)
    plain, network, _, meta = load_student(config, checkpoint)
    if whole:
        check_possible(plain)
    graph = graphs.graph_of(network)
    steps = values.pipeline_of((plain.get('test_dataloader') or plain.get('val_dataloader') or {}).get('dataset'))
    scales = (step.get('scale') for step in steps if values.type_name(step).endswith('Resize'))
    wide, high = next((scale for scale in scales if isinstance(scale, (tuple, list))), (512, 512))
    tested = (-(-int(side) // graphs.STEP) * graphs.STEP for side in (high, wide))
    height, width = size or (plain.model.get('data_preprocessor') or {}).get('size') or tested
    try:
        with torch.no_grad():
            graph(graph.picture(height, width))
    except ValueError:
        raise
    except Exception as error:  # a network may raise anything
        problem = f'{type(network).__name__} takes no pictures of {height}x{width}: {first_line(error)}'
        raise ValueError(f'{problem}. --size H W sets another size.') from error
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        unfinished = Path(folder, path.name)
        exported = _write_freest(graph, (height, width), unfinished, meta['student'])
        if whole:
            make_whole(unfinished, plain, network, [[height, width], *_sizes((height, width), 1)])
        exported.path = unfinished.replace(path)
    return exported


def _write_freest(graph: graphs.Graph, size: tuple[int, int], path: Path, about: Mapping[str, Any]) -> Exported:
    """Write a graph with as many free axes as its network allows."""
    failures: list[str] = []
    for axes, step in ((axes, step) for axes, step in graph.freedoms if not any(side % step for side in size)):
        image = graph.picture(*size, 2 if axes else 1)  # two: torch.export takes a size of one for a constant
        try:
            return _write(graph, image, axes, step, path, about, failures)
        except Exception as error:  # each exporter has its own
            if isinstance(error, OSError) and error.errno:  # a full disk is no fault of the format
                error.filename = error.filename or str(path)
                raise
            multiples = f' in multiples of {step}' if step > 1 else ''
            failures.append(f'{", ".join(axes) or "nothing"} free{multiples}: {first_line(error)}')
    endings = [ending for ending in (*graphs.WEIGHTS, *graphs.GRAPHS) if ending != path.suffix]
    raise ValueError(
        f'{type(graph.model).__name__} could not be written as {path.suffix}. {" | ".join(failures)}. Try another '
        f'ending ({", ".join(endings)}); MMDeploy knows more networks.'
    )


def _write(
    graph: graphs.Graph, image: Tensor, axes: Sequence[str], step: int, path: Path, about: Any, reasons: list[str]
) -> Exported:
    """Write a graph with these free axes, and compare it with its network."""
    with torch.no_grad():
        outputs = {name: list(value.shape) for name, value in graph.named_outputs(image).items()}
    shape: list[Any] = list(image.shape)
    for name in axes:
        shape[graphs.AXES[name]] = name
    inputs = {**about['input'], 'shape': shape}
    inputs['channels'] = 'grey' if image.shape[1] == 1 else inputs['channels']
    inputs['pad_size_divisor'] = math.lcm(step, inputs['pad_size_divisor'])
    full = {**about, 'input': inputs, 'task': graph.task, 'made_with': list(image.shape), 'outputs': outputs}
    full |= {'note': graph.note, **{key: value for key, value in graph.settings().items() if value is not None}}
    size = list(image.shape[2:])
    smallest, *other_sizes = _sizes(size, step) if 'height' in axes else [size]

    def write_graph() -> graphs.Run:
        inputs['smallest'] = smallest
        graphs.GRAPHS[path.suffix](graph, image, axes, path, full)
        return graphs.open_graph(path)

    run = write_graph()
    single = [image[:1]] if 'batch' in axes else []
    difference = _difference(run, graph, [image, *single, *(graph.picture(*sides) for sides in other_sizes)])
    try:
        difference = max(difference, _difference(run, graph, [graph.picture(*smallest)] if smallest != size else []))
    except Exception:  # the network, or what torch.export took for a constant, has a least size
        smallest = size
        write_graph()
    return Exported(path, list(outputs), difference, smallest, list(axes), reasons, (size[0], size[1]), step)


def _sizes(size: Sequence[int], step: int) -> list[list[int]]:
    """Return sizes that differ in kind, in multiples of ``step``: half of a size, twice, another ratio, primes."""
    height, width = (side // step for side in size)
    primes = [next(n for n in count(side + 1) if all(n % k for k in range(2, n))) for side in (height, 4 * width // 3)]
    chosen = ([-(-height // 2), -(-width // 2)], [2 * height, 2 * width], [height + -(-height // 2), width], primes)
    return [[step * side for side in sides] for sides in chosen]


def load_student(
    config: Config, checkpoint: str | Path, parts: Sequence[str] | None = None
) -> tuple[Config, nn.Module, dict[str, Tensor], dict[str, Any]]:
    """Return the plain config, the loaded network, its weights and the kept meta; ``parts``, or all of it, must fit."""
    plain = strict_load.plain_config(config)
    file = strict_load.local_file(str(checkpoint), None, 'checkpoint')
    content = strict_load.read_checkpoint(file)
    state = strict_load.state_dict_of(content, file)
    init_default_scope(plain.get('default_scope') or 'mmengine')
    with torch.device('cpu'):
        network = build_network(ModelConfig(plain.model, None, None))
        strict_load.load_strictly(network, state, parts, f'checkpoint={str(file)!r}')
    checkpoint_meta, keys = dict(content.get('meta') or {}), ('dataset_meta', 'epoch', 'iter', 'seed')
    data = checkpoint_meta.get('dataset_meta') or {}
    if 'classes' not in data and (classes := strict_load.class_names_in(content)):  # of older mmseg and mmdet
        palette = data.get('PALETTE') or checkpoint_meta.get('PALETTE')
        checkpoint_meta['dataset_meta'] = {**data, 'classes': classes, 'palette': palette}
    meta = {key: checkpoint_meta[key] for key in keys if key in checkpoint_meta}
    return plain, network, state, {**meta, 'student': student_description(plain, checkpoint_meta, file)}


def student_description(config: Config, meta: Mapping[str, Any], checkpoint: Path) -> dict[str, Any]:
    """Return a description of a student in plain values, for JSON."""
    data, before = meta.get('dataset_meta') or {}, config.model.get('data_preprocessor') or {}
    tested, value = before.get('test_cfg') or {}, before.get('pad_value', before.get('pad_val', 0))
    size = tested.get('size')
    try:
        prepared = preparation(config)
    except ValueError as error:  # pipelines of other kinds, or none
        prepared = {'resize': None, 'pad': None, 'unknown': str(error)}
    inputs = {
        'name': 'image',
        'layout': 'NCHW',
        'dtype': 'float32',
        # Pictures are loaded as BGR, and stay so unless the preprocessor turns them; either option turns them.
        'channels': 'RGB' if before.get('bgr_to_rgb') or before.get('rgb_to_bgr') else 'BGR',
        'mean': [float(number) for number in before.get('mean') or [0.0] * 3],
        'std': [float(number) for number in before.get('std') or [1.0] * 3],
        'normalised': '(pixel - mean) / std, for pixels from 0 to 255, in the order of channels',
        # mmdet's preprocessor always pads, mmseg's in a test as its test_cfg says.
        'pad_size_divisor': int(before.get('pad_size_divisor') or tested.get('size_divisor') or 1),
        'padding': {'size': size and size[::-1], 'value': float(value)},  # (width, height), as all sizes
        **prepared,
    }
    source = {'file': checkpoint.name, 'sha256': strict_load.sha256(checkpoint)}
    source |= {key: meta[key] for key in ('epoch', 'iter', 'seed') if key in meta} | {'mmdistill_dense': __version__}
    description: dict[str, Any] = {'model': str(config.model.get('type')), 'input': inputs}
    description |= {'classes': data.get('classes'), 'palette': data.get('palette')}
    return values.plain({**description, 'test_cfg': config.model.get('test_cfg'), 'source': source})


def _difference(run: graphs.Run, graph: graphs.Graph, images: Sequence[Tensor]) -> float:
    largest = 0.0
    for image in images:
        with torch.no_grad():
            expected = graph.named_outputs(image)
        for (name, other), output in zip(expected.items(), run(image), strict=True):
            if output.shape != other.shape:
                raise ValueError(f'{name} has shape {tuple(output.shape)} instead of {tuple(other.shape)}')
            if other.numel() > 0:
                tiny, difference = torch.finfo(other.dtype).tiny, output - other
                typical = difference.norm().item() / max(tiny, other.norm().item())
                if not typical <= TOLERANCE:  # NaN too
                    raise ValueError(f'{name} differs from the network by {typical:.2e} of its root mean square')
                largest = max(largest, difference.abs().max().item() / max(tiny, other.abs().max().item()))
    return largest


def export_command(args: argparse.Namespace) -> None:
    """Write weights or a graph, and print its inputs and outputs."""
    config = read_config(args.config, args.cfg_options)
    _check_options(args, config)
    if args.backbone_only:
        print(f'weights {export_backbone(config, args.checkpoint, args.out, args.names)}')
        return
    if not graphs.is_graph(args.out):
        weights, plain = export_student(config, args.checkpoint, args.out)
        print(f'weights {weights}\nconfig  {plain}')
        return
    exported = export_graph(config, args.checkpoint, args.out, args.size, args.whole)
    if args.whole:
        description = graphs.read_description(exported.path)
        trial, fixed = description['tried'], description['input']['shape'][0] != 'height'
        sizes = ', '.join(map(size_text, trial['pictures']))
        share = f'{trial["equal"]:.2%}' if trial['compared'] else 'not known'
        print(f'graph   {exported.path}, from pictures of {"this size alone" if fixed else "any size"} to answers')
        print(f'equal   {share} of {trial["compared"]} {trial["counted"]} of the network, on made pictures of {sizes}')
        if not trial['compared'] or (trial['counted'] == 'labels' and trial['classes'] < 2):
            content = 'one class' if trial['compared'] else 'no box'
            print(f'WARNING the network sees {content} there, where all graphs agree: --evaluate scores it on val')
    else:
        size, smallest = size_text(exported.size), size_text(exported.smallest)
        sides = f'multiples of {exported.step} as height and width' if exported.step > 1 else 'any height and width'
        single_size = f'pictures of {size} alone: --size H W sets another size'
        limit = f'{sides} from {smallest} on (tried up to twice {size})' if 'height' in exported.axes else single_size
        print(f'graph   {exported.path}\noutputs {", ".join(exported.outputs)}')
        print(f'made    with pictures of {size}; the graph takes {limit}')
        print(f'free    {", ".join(exported.axes) or "nothing: one picture of this size"}')
        for reason in exported.reasons if 'height' not in exported.axes else ():  # else the line above says enough
            print(f'        not {reason}')
        print(f'differs from the network by {exported.difference:.1e} of its largest value')
    for graph in (None, exported.path) if args.evaluate else ():
        with errors_only():  # the evaluation logs a table of classes
            metrics, milliseconds = evaluate(config, args.checkpoint, graph)
        scores = ', '.join(f'{name} {value:.4g}' for name, value in metrics.items())
        cost = f'; {graph.stat().st_size / 2**20:.2f} MiB, {milliseconds:.1f} ms a call' if graph else ''
        print(f'{graph.name if graph else "network"}: {scores}{cost}', flush=True)


def _check_options(args: argparse.Namespace, config: Config) -> None:
    """Refuse options that would have no effect, or fail after the graph is written."""
    for_graphs = [f'--{name}' for name in ('size', 'whole', 'evaluate') if getattr(args, name)]
    if for_graphs and (args.backbone_only or not graphs.is_graph(args.out)):
        raise ValueError(f'{", ".join(for_graphs)}: only for graphs (.onnx, .pt2), and {args.out} gets weights')
    if args.names and not args.backbone_only:
        raise ValueError(f'--names {args.names}: only with --backbone-only')
    if args.evaluate and not args.whole and 'roi_head' in strict_load.plain_config(config).model:
        raise ValueError('--evaluate: the graph of a two-stage detector ends before its RoI heads: add --whole')
    if args.evaluate and (missing := [key for key in ('val_dataloader', 'val_evaluator') if not config.get(key)]):
        raise ValueError(f'--evaluate: {args.config} has no {" and no ".join(missing)}')
