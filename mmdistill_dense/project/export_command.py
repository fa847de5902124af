"""The command line of ``tools/export_student.py``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config

from mmdistill_dense.config.options_action import OptionsAction
from mmdistill_dense.export import FORMATS, export_graph, export_student
from mmdistill_dense.export.evaluate import evaluate
from mmdistill_dense.export.formats import WRITERS, format_of
from mmdistill_dense.export.int8 import quantise
from mmdistill_dense.pretrain.export_backbone import export_backbone
from mmdistill_dense.recipes.named import read_config
from mmdistill_dense.utils.messages import text_of
from mmdistill_dense.utils.silence import errors_only

DESCRIPTION = """Export a distilled student: as weights with the plain config that loads them, or as a graph.

The ending of OUT selects the format: .pth and .safetensors are weights; .onnx, .pt (TorchScript) and .pt2
(torch.export) are graphs that run without the mm* stack. --int8 also writes an .onnx graph with 8-bit arithmetic, and
--evaluate compares the scores of the network and of its graphs. --backbone-only writes the weights of the backbone, for
ordinary configs to start from.
"""


def main_export(argv: Sequence[str] | None = None) -> None:
    """Read the command line and export."""
    parser = argparse.ArgumentParser(description=DESCRIPTION)
    parser.add_argument('config', help='config the student was trained with: a file, or METHOD:PAIR[:VARIANT]')
    parser.add_argument('checkpoint', help='checkpoint of that run')
    parser.add_argument('out', help='file to write; weights get a config (.py) beside them')
    parser.add_argument('--format', choices=FORMATS, help='what to write (default: by the ending of OUT)')
    parser.add_argument(
        '--size', nargs=2, type=int, metavar=('H', 'W'), help='size of the image that a graph is made and checked with'
    )
    parser.add_argument(
        '--cfg-options', nargs='+', action=OptionsAction, help='the overrides given in training: key=value'
    )
    parser.add_argument(
        '--backbone-only',
        action='store_true',
        help="write the backbone's weights alone, under the names that backbone.init_cfg=dict(type='Pretrained') takes",
    )
    parser.add_argument(
        '--int8',
        type=int,
        metavar='N',
        help='also write OUT.int8.onnx, calibrated on N pictures of the training data (OUT must end in .onnx)',
    )
    parser.add_argument(
        '--evaluate', action='store_true', help='print the scores of network and graphs on the validation data'
    )
    args = parser.parse_args(argv)
    config = read_config(args.config, args.cfg_options)
    _check_options(parser, args, config)
    try:
        _export(args, config)
    except (FileExistsError, KeyError, ModuleNotFoundError, ValueError) as error:
        parser.exit(2, f'ERROR    {text_of(error)}\n')


def _export(args: argparse.Namespace, config: Config) -> None:
    if args.backbone_only:
        print(f'weights {export_backbone(config, args.checkpoint, args.out)}')
        return
    if format_of(Path(args.out), args.format) not in WRITERS:
        weights, plain = export_student(config, args.checkpoint, args.out)
        print(f'weights {weights}\nconfig  {plain}')
        return
    found = export_graph(config, args.checkpoint, args.out, args.size)
    print(f'graph   {found.path}\noutputs {", ".join(found.outputs)}')
    size = f'{found.size[0]}x{found.size[1]}'
    sides = f'multiples of {found.step} as height and width' if found.step > 1 else 'any height and width'
    taken = sides if 'height' in found.axes else f'pictures of {size} alone: --size H W sets another size'
    print(f'made    with pictures of {size}; the graph takes {taken}')
    print(f'free    {", ".join(found.axes) or "nothing: one picture of this size"}')
    for reason in found.reasons:
        print(f'        not {reason}')
    print(f'differs from the network by {found.difference:.1e} of its largest value')
    graphs = [found.path]
    if args.int8 is not None:
        graphs.append(quantise(config, args.checkpoint, found.path, args.int8))
        print(f'int8    {graphs[-1]}')
    if args.evaluate:
        for graph in (None, *graphs):
            with errors_only():  # the evaluation logs a table of classes
                told = _scores(config, args.checkpoint, graph)
            print(told, flush=True)


def _check_options(parser: argparse.ArgumentParser, args: argparse.Namespace, config: Config) -> None:
    """Refuse options that would have no effect, or fail after the graph is written."""
    given = {'--size': args.size, '--int8': args.int8, '--evaluate': args.evaluate or None}
    for_graphs = [name for name, value in given.items() if value is not None]
    if for_graphs and (args.backbone_only or format_of(Path(args.out), args.format) not in WRITERS):
        parser.error(f'{", ".join(for_graphs)}: only for graphs (.onnx, .pt, .pt2), and {args.out} gets weights')
    if args.int8 is not None and (args.int8 < 1 or not args.out.endswith('.onnx')):
        parser.error(f'--int8 {args.int8}: give the number of pictures, at least 1, and an OUT that ends in .onnx')
    needs = {'--int8': ('train_dataloader',), '--evaluate': ('val_dataloader', 'val_evaluator')}
    for name, keys in needs.items():
        if name in for_graphs and (missing := [key for key in keys if not config.get(key)]):
            parser.error(f'{name}: {args.config} has no {" and no ".join(missing)}')


def _scores(config: Config, checkpoint: str, graph: Path | None) -> str:
    """Return a line with the scores of the network or a graph, and the size and time of a graph."""
    metrics, milliseconds = evaluate(config, checkpoint, graph)
    told = ', '.join(f'{name} {value:.4g}' for name, value in metrics.items())
    if graph is None:
        return f'network: {told}'
    return f'{graph.name}: {told}; {graph.stat().st_size / 2**20:.2f} MB, {milliseconds:.1f} ms a call'
