"""Graphs of a student as ONNX or ``torch.export``: write, run and evaluate them."""

import contextlib
import importlib.util
import inspect
import json
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmdistill_dense.config.values import plain
from mmdistill_dense.networks.trace import input_channels
from mmdistill_dense.utils.files import write_whole
from mmdistill_dense.utils.process import quiet
from mmdistill_dense.utils.validate import size_text
from mmdistill_dense.utils.version import removed
from mmdistill_dense.weights.safe_load import read_checkpoint

Run = Callable[[Tensor], list[Tensor]]  # a written graph: from an image to its outputs
AXES = {'batch': 0, 'height': 2, 'width': 3}
STEP = 32  # in which feature pyramids that add maps of two strides take sizes
ENTRY = 'mmdistill_dense'  # the name of the description in every format's metadata
_HINT = 'Export it as pth or safetensors, or use MMDeploy.'


class Graph(nn.Module):
    """A segmentor or detector from the normalised image ``(B, 3, H, W)`` to a flat tuple of tensors."""

    task: str
    note: str  # what is left to do with the outputs
    settings: Callable[[], dict[str, Any]]  # what that needs to know, None where it is not so
    named_outputs: Callable[[Tensor], dict[str, Tensor]]  # the outputs for an image
    # from now on, lets the network predict from what a written graph gives: its function, and its outputs' names
    predict_with: Callable[[Run, Sequence[str]], None]
    # axes that are tried free, the freest first, and what their sides are multiples of (8: PIDNet, DDRNet)
    freedoms: Sequence[tuple[Any, int]] = (*((tuple(AXES), step) for step in (1, 8, STEP)), (('batch',), 1), ((), 1))

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model.requires_grad_(False)
        self.eval()

    def picture(self, height: int, width: int, batch: int = 1) -> Tensor:
        """Return noise as normalised images of as many channels as the network takes."""
        return torch.randn(batch, input_channels(self.model), height, width, generator=torch.Generator().manual_seed(0))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.named_outputs(image).values())


class SegmentorGraph(Graph):
    """``logits`` (B, classes, H, W) as mmseg's whole-picture inference has them, at the size of the image."""

    task = 'segmentation'
    note = (
        'logits (B, classes, H, W) of the whole picture; the label is the argmax over axis 1, or, for one channel, '
        'whether its sigmoid is above threshold'
    )

    def settings(self) -> dict[str, Any]:
        heads = getattr(self.model, 'decode_head', None)
        head: Any = heads[-1] if isinstance(heads, nn.ModuleList) else heads
        threshold = getattr(head, 'threshold', None) if getattr(head, 'out_channels', None) == 1 else None
        return {'threshold': threshold, 'align_corners': getattr(self.model, 'align_corners', None)}

    def named_outputs(self, image: Tensor) -> dict[str, Tensor]:
        from mmseg.models.utils import resize

        # Its warning reads sizes as numbers. The pictures of a batch have one size; a list of as many members would fix
        # their number in the graph.
        with mock.patch.object(resize, '__defaults__', (*resize.__defaults__[:-1], False)):
            return {'logits': self.model.encode_decode(image, [{'img_shape': tuple(image.shape[2:])}])}

    def predict_with(self, run: Run, names: Sequence[str]) -> None:
        """Replace ``encode_decode``, which whole-picture and sliding inference call."""
        self.model.encode_decode = lambda image, metas: run(image)[0]


class DetectorGraph(Graph):
    """The outputs of a dense head (or, after ``features_0``, …, of the RPN) by level: ``cls_scores_0``, …."""

    task = 'detection'
    note = (
        'raw outputs of the dense head, finest level first; decoding, non-maximum suppression and RoI heads are left '
        'out: mmdet computes them from these (bbox_head.predict_by_feat), MMDeploy exports them'
    )

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.two_stage = hasattr(model, 'rpn_head')
        self.head = 'rpn_head' if self.two_stage else 'bbox_head'
        # The losses of mmdet's dense heads take what the head returns, under these names. Learned proposals (Sparse
        # R-CNN, QueryInst) have no loss of their own, and nothing that is dense.
        loss: Any = getattr(getattr(model, self.head, None), 'loss_by_feat', None)
        self.names = list(inspect.signature(loss).parameters) if loss else []

    def settings(self) -> dict[str, Any]:
        head = getattr(self.model, self.head)
        priors, coder = getattr(head, 'prior_generator', None), getattr(head, 'bbox_coder', None)
        bases = getattr(priors, 'base_anchors', None)
        sigmoid = getattr(head, 'use_sigmoid_cls', getattr(getattr(head, 'loss_cls', None), 'use_sigmoid', True))
        kinds = (int, float, str, tuple, list)
        options = {key: value for key, value in vars(coder or head).items() if isinstance(value, kinds)}
        decoding = {
            'strides': plain(getattr(priors, 'strides', None)),  # of each level, in width and height
            # x1, y1, x2, y2 around column * stride and row * stride; channels are anchor by anchor
            'anchors': None if bases is None else [base.tolist() for base in bases],
            'offset': getattr(priors, 'offset', None),  # of a point in its cell, in strides
            'coder': {'type': type(coder).__name__, **plain(options)} if coder else type(head).__name__,
            'bins': getattr(head, 'reg_max', None),  # of a distribution over distances in strides
            'scores': 'sigmoid' if sigmoid else 'softmax, the last class is the background',
            'nms': plain(head.test_cfg),
        }
        return {'decoding': decoding}

    def named_outputs(self, image: Tensor) -> dict[str, Tensor]:
        features = self.model.extract_feat(image)
        head = getattr(self.model, self.head)
        outputs = head(features)
        if not all(isinstance(levels, (list, tuple)) for levels in outputs):  # as of masks and their kernels
            name = f'{type(head).__name__} of {type(self.model).__name__}'
            raise ValueError(f'{name} gives more than maps by level: no graph has it. {_HINT}')
        groups = [*([('features', features)] if self.two_stage else []), *zip(self.names, outputs, strict=False)]
        return {f'{name}_{level}': tensor for name, levels in groups for level, tensor in enumerate(levels)}

    def predict_with(self, run: Run, names: Sequence[str]) -> None:
        """Replace backbone, neck and dense head."""
        if self.two_stage:
            raise ValueError(f'the graph of a {type(self.model).__name__} ends before its RoI heads: it has no score')
        self.model.extract_feat = run
        self.model.bbox_head.forward = lambda outputs: tuple(group_levels(names, outputs))


def group_levels(names: Iterable[str], outputs: Iterable[Tensor]) -> list[list[Tensor]]:
    """Return outputs that are named ``NAME_LEVEL`` in a list for each name."""
    groups: dict[str, list[Tensor]] = {}
    for name, output in zip(names, outputs, strict=True):
        groups.setdefault(name.rpartition('_')[0], []).append(output)
    return [*groups.values()]


class QueryGraph(DetectorGraph):
    """Of the last layer of a DETR ``cls_scores`` (B, queries, classes) and ``bbox_preds`` (B, queries, 4)."""

    note = 'class logits of each query, and its box: centre, width and height as shares of those of the picture'
    freedoms = (((), 1),)  # their encoders read the sizes of maps as values

    def named_outputs(self, image: Tensor) -> dict[str, Tensor]:
        shape = tuple(image.shape[2:])
        about = SimpleNamespace(metainfo={}, batch_input_shape=shape, img_shape=shape)
        inputs = self.model.forward_transformer(self.model.extract_feat(image), [about] * len(image))
        scores, boxes, *_ = self.model.bbox_head(**inputs)
        return {'cls_scores': scores[-1], 'bbox_preds': boxes[-1]}

    def predict_with(self, run: Run, names: Sequence[str]) -> None:
        """Replace all but what mmdet makes of scores and boxes."""

        def predict(outputs: Sequence[Tensor], batch_data_samples: Any, rescale: bool) -> Any:
            metas = [sample.metainfo for sample in batch_data_samples]
            return self.model.bbox_head.predict_by_feat(*(output[None] for output in outputs), metas, rescale=rescale)

        self.model.extract_feat, self.model.bbox_head.predict = run, predict
        self.model.forward_transformer = lambda outputs, samples: {'outputs': outputs}


def graph_of(model: nn.Module) -> Graph:
    if hasattr(model, 'encode_decode'):
        return SegmentorGraph(model)
    if hasattr(model, 'forward_transformer'):
        return QueryGraph(model)
    graph, bases = DetectorGraph(model), {kind.__name__ for kind in type(model).__mro__}
    if not graph.names or not bases & {'SingleStageDetector', 'TwoStageDetector'}:
        raise ValueError(
            f'a {type(model).__name__} cannot be exported as a graph; segmentors with encode_decode, single-stage '
            f'detectors, two-stage detectors up to their RPN, and DETRs can. {_HINT}'
        )
    return graph


_SIDE_FILE, _OPSET = f'{ENTRY}.json', 20


def write_exported(graph: Graph, image: Tensor, axes: Sequence[str], path: Path, about: Mapping[str, Any]) -> None:
    content = BytesIO()  # torch itself ends the process on a full disk
    program = traced(graph, {image: [AXES[name] for name in axes]})
    torch.export.save(program, content, extra_files={_SIDE_FILE: json.dumps(about)})
    write_whole(path, content.getvalue())


def write_onnx(graph: Graph, image: Tensor, axes: Sequence[str], path: Path, about: Mapping[str, Any]) -> None:
    import onnx

    outputs = list(about['outputs'])
    if isinstance(graph, QueryGraph):  # deformable attention takes sizes from values, which torch.export refuses
        content = BytesIO()
        options: Any = {'f': content, 'input_names': ['image'], 'output_names': outputs, 'opset_version': _OPSET}
        with quiet():
            torch.onnx.export(graph, (image,), dynamo=False, **options)
        model = onnx.load_from_string(content.getvalue())
    else:
        names = {AXES[name]: name for name in axes}
        model = onnx_of(traced(graph, {image: list(names)}), ['image'], outputs, dynamic_shapes={'image': names})
    save_onnx(model, path, about)


def save_onnx(model: Any, path: Path, about: Mapping[str, Any]) -> None:
    import onnx

    domains = {entry.domain: entry for entry in model.opset_import}  # merged graphs repeat them
    del model.opset_import[:]
    model.opset_import.extend(domains.values())
    onnx.helper.set_model_props(model, {ENTRY: json.dumps(about)})
    write_whole(path, model.SerializeToString())


def onnx_of(program: torch.export.ExportedProgram, inputs: list[str], outputs: list[str], **options: Any) -> Any:
    """Return a traced program as ONNX with these names."""
    with quiet():  # torch warns where torchvision is missing
        options |= {'input_names': inputs, 'output_names': outputs, 'opset_version': _OPSET}
        onnx = torch.onnx.export(program, dynamo=True, verbose=False, **options)
    assert onnx is not None
    for node in onnx.model.graph.all_nodes():
        node.metadata_props.clear()  # torch notes the stack of each, with the folders of this machine
    del (model := onnx.model_proto).graph.value_info[:]  # constants where a side was 1, which onnxruntime believes
    return model


def traced(module: nn.Module, inputs: Mapping[Tensor, Sequence[int]]) -> torch.export.ExportedProgram:
    """Return the program of a module for inputs like these, each with the axes that may have any size."""
    free: Any = torch.export.ShapesCollection()
    for value, axes in inputs.items():
        free[value] = dict.fromkeys(axes, torch.export.Dim.DYNAMIC)
    with quiet(), torch.no_grad(), mock.patch.object(F, 'adaptive_avg_pool2d', _pooled):
        return torch.export.export(module, tuple(inputs), dynamic_shapes=free)


_POOL = F.adaptive_avg_pool2d


def _pooled(maps: Tensor, output_size: Any) -> Tensor:
    """Pool to a number of places by products of matrices, so that no size of the maps becomes a constant."""
    bins = output_size if isinstance(output_size, (tuple, list)) else (output_size, output_size)
    if set(bins) == {1} or None in bins:
        return _POOL(maps, output_size)
    for axis, number in zip((2, 3), bins, strict=True):
        side, ends = maps.shape[axis], torch.arange(number + 1)[:, None]
        at, low, high = torch.arange(side), ends[:-1] * side // number, (ends[1:] * side + number - 1) // number
        inside = ((at >= low) & (at < high)).to(maps)
        shares = inside / inside.sum(1, keepdim=True)
        maps = shares @ maps if axis == 2 else maps @ shares.T
    return maps


WEIGHTS = ('.pth', '.safetensors')
GRAPHS = {'.onnx': write_onnx, '.pt2': write_exported}


def is_graph(path: str | Path) -> bool:
    """Tell by its ending whether a file is a graph, or weights; others are refused."""
    ending = Path(path).suffix
    if ending not in (*WEIGHTS, *GRAPHS):
        problem = removed('torchscript') if ending == '.pt' else f'it must end in {", ".join((*WEIGHTS, *GRAPHS))}.'
        raise ValueError(f'out={str(path)!r}: {problem}')
    return ending in GRAPHS


def check_overwrite(out: Path, checkpoint: str | Path) -> None:
    """Check that an export replaces nothing but an earlier one, and not the checkpoint that it reads."""
    if not out.exists():
        return
    if out.is_dir():
        raise ValueError(f'out={str(out)!r} is a folder: name a file in it.')
    if Path(checkpoint).exists() and out.samefile(checkpoint):
        problem = 'is the checkpoint itself, which would lose what a run resumes from'
        raise FileExistsError(f'out={str(out)!r} {problem}. Choose another name.')
    try:
        read_description(out)
    except Exception as error:  # each format has its own
        problem = 'is there, without what mmdistill export writes into its files'
        raise FileExistsError(f'out={str(out)!r} {problem}. Choose another name, or remove it.') from error


def require_onnx() -> None:
    if missing := [name for name in ('onnx', 'onnxscript', 'onnxruntime') if importlib.util.find_spec(name) is None]:
        install = "pip install 'mmdistill_dense[export]', or in a checkout pip install -e '.[export]'"
        raise ModuleNotFoundError(f'.onnx needs {", ".join(missing)}: {install}.')


def open_graph(path: str | Path) -> Run:
    """Return a function from a normalised image ``(B, 3, H, W)`` to the outputs of an exported graph, on the CPU.

    Files of graphs are programs: open only those whose source you trust.
    """
    if not is_graph(path):
        raise ValueError(f'{str(path)!r} holds weights and no graph.')
    inputs: Mapping[str, Any] = {}
    with contextlib.suppress(ValueError, KeyError):  # a file that does not describe itself
        inputs = read_description(path)['input']
    run: Any = _onnx(path) if Path(path).suffix == '.onnx' else torch.export.load(path).module()
    shape, smallest = inputs.get('shape', ()), inputs.get('smallest', (1, 1))

    def checked(image: Tensor) -> list[Tensor]:
        fixed = any(isinstance(size, int) and size != side for size, side in zip(shape, image.shape, strict=False))
        if fixed or any(side < least for side, least in zip(image.shape[2:], smallest, strict=False)):
            least = '' if fixed else f' from {size_text(smallest)} on'
            raise ValueError(
                f'{str(path)!r} takes pictures of the shape {", ".join(map(str, shape))}{least}, got '
                f'{tuple(image.shape)}. Another height and width need a graph of their own: export with --size H W.'
            )
        with torch.no_grad():
            return list(run(image))

    return checked


def _onnx(path: str | Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # a graph that fails at a size raises its reason
    session = onnxruntime.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])
    name = session.get_inputs()[0].name
    return lambda image: [torch.from_numpy(output) for output in session.run(None, {name: image.numpy()})]


def read_description(path: str | Path) -> dict[str, Any]:
    """Return the description inside an exported file of any format."""
    if not is_graph(path):
        text = read_checkpoint(path).get('meta', {}).get('student')
    elif Path(path).suffix == '.onnx':
        require_onnx()
        import onnx

        properties = onnx.load(str(path), load_external_data=False).metadata_props
        text = next((entry.value for entry in properties if entry.key == ENTRY), None)
    else:  # a zip file: torch.export.load would build the whole program
        with zipfile.ZipFile(path) as members:
            text = next((members.read(name) for name in members.namelist() if name.endswith(_SIDE_FILE)), None)
    if not text:
        raise ValueError(f'{str(path)!r} has no description: it was not written by mmdistill export.')
    return text if isinstance(text, dict) else json.loads(text)
