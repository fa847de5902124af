"""``mmdistill export``: what is asked for, and what is printed of it."""

from __future__ import annotations

import argparse
from pathlib import Path

from mmengine.config import Config

from mmdistill_dense.apps.export.graphs import is_graph
from mmdistill_dense.apps.export.whole import export_whole
from mmdistill_dense.apps.export.write_student import evaluate, export_backbone, export_graph, export_student, quantise
from mmdistill_dense.apps.recipes.named import read_config
from mmdistill_dense.utils.process import errors_only


def export_command(args: argparse.Namespace) -> None:
    """Write weights or a graph, and print its inputs and outputs."""
    config = read_config(args.config, args.cfg_options)
    _check_options(args, config)
    if args.backbone_only:
        print(f'weights {export_backbone(config, args.checkpoint, args.out, args.names)}')
        return
    if not is_graph(args.out):
        weights, plain = export_student(config, args.checkpoint, args.out)
        print(f'weights {weights}\nconfig  {plain}')
        return
    graphs = (_export_whole if args.whole else _export_bare)(config, args)
    if args.evaluate:
        for graph in (None, *graphs):
            with errors_only():  # the evaluation logs a table of classes
                metrics, milliseconds = evaluate(config, args.checkpoint, graph)
            told = ', '.join(f'{name} {value:.4g}' for name, value in metrics.items())
            if graph is not None:
                told += f'; {graph.stat().st_size / 2**20:.2f} MB, {milliseconds:.1f} ms a call'
            print(f'{graph.name if graph else "network"}: {told}', flush=True)


def _export_bare(config: Config, args: argparse.Namespace) -> list[Path]:
    found = export_graph(config, args.checkpoint, args.out, args.size)
    print(f'graph   {found.path}\noutputs {", ".join(found.outputs)}')
    size, smallest = (f'{height}x{width}' for height, width in (found.size, found.smallest))
    sides = f'multiples of {found.step} as height and width' if found.step > 1 else 'any height and width'
    alone = f'pictures of {size} alone: --size H W sets another size'
    taken = f'{sides} from {smallest} on (tried up to twice {size})' if 'height' in found.axes else alone
    print(f'made    with pictures of {size}; the graph takes {taken}')
    print(f'free    {", ".join(found.axes) or "nothing: one picture of this size"}')
    for reason in found.reasons:
        print(f'        not {reason}')
    print(f'differs from the network by {found.difference:.1e} of its largest value')
    graphs = [found.path]
    if args.int8 is not None:
        graphs.append(quantise(config, args.checkpoint, found.path, args.int8))
        print(f'int8    {graphs[-1]}')
    return graphs


def _export_whole(config: Config, args: argparse.Namespace) -> list[Path]:
    found = export_whole(config, args.checkpoint, args.out, args.size, args.int8)
    sizes = ', '.join(f'{height}x{width}' for height, width in found.sizes)
    print(f'graph   {found.paths[0]}, from pictures of {"this size alone" if found.alone else "any size"} to answers')
    print(f'equal   {found.equal:.2%} of {found.compared} {found.counted} of the network, on made pictures of {sizes}')
    for path in found.paths[1:]:
        print(f'int8    {path}')
    return found.paths


def _check_options(args: argparse.Namespace, config: Config) -> None:
    """Refuse options that would have no effect, or fail after the graph is written."""
    given = {
        '--size': args.size,
        '--whole': args.whole or None,
        '--int8': args.int8,
        '--evaluate': args.evaluate or None,
    }
    for_graphs = [name for name, value in given.items() if value is not None]
    if for_graphs and (args.backbone_only or not is_graph(args.out)):
        raise ValueError(f'{", ".join(for_graphs)}: only for graphs (.onnx, .pt2), and {args.out} gets weights')
    if args.names and not args.backbone_only:
        raise ValueError(f'--names {args.names}: only with --backbone-only')
    if args.whole and not args.out.endswith('.onnx'):
        raise ValueError(f'--whole: a whole graph ends in .onnx, got {args.out}')
    if args.int8 is not None and (args.int8 < 1 or not args.out.endswith('.onnx')):
        raise ValueError(f'--int8 {args.int8}: give the number of pictures, at least 1, and an OUT that ends in .onnx')
    needs = {'--int8': ('train_dataloader',), '--evaluate': ('val_dataloader', 'val_evaluator')}
    for name, keys in needs.items():
        if name in for_graphs and (missing := [key for key in keys if not config.get(key)]):
            raise ValueError(f'{name}: {args.config} has no {" and no ".join(missing)}')
