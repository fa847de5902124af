"""What ``export`` does."""

from __future__ import annotations

import argparse
from pathlib import Path

from mmengine.config import Config

from mmdistill_dense.apps.export.graphs import WRITERS, format_of
from mmdistill_dense.apps.export.write_student import evaluate, export_backbone, export_graph, export_student, quantise
from mmdistill_dense.apps.recipes.named import read_config
from mmdistill_dense.utils.quiet import errors_only


def export(args: argparse.Namespace) -> tuple[Path, ...]:
    """Write weights or a graph, print their inputs and outputs, and return the files."""
    config = read_config(args.config, args.cfg_options)
    _check_options(args, config)
    if args.backbone_only:
        weights = export_backbone(config, args.checkpoint, args.out, args.names)
        print(f'weights {weights}')
        return (weights,)
    if format_of(Path(args.out), args.format) not in WRITERS:
        weights, plain = export_student(config, args.checkpoint, args.out)
        print(f'weights {weights}\nconfig  {plain}')
        return weights, plain
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
    return tuple(graphs)


def _check_options(args: argparse.Namespace, config: Config) -> None:
    """Refuse options that would have no effect, or fail after the graph is written."""
    given = {'--size': args.size, '--int8': args.int8, '--evaluate': args.evaluate or None}
    for_graphs = [name for name, value in given.items() if value is not None]
    if for_graphs and (args.backbone_only or format_of(Path(args.out), args.format) not in WRITERS):
        raise ValueError(f'{", ".join(for_graphs)}: only for graphs (.onnx, .pt, .pt2), and {args.out} gets weights')
    if args.push and (args.backbone_only or format_of(Path(args.out), args.format) in WRITERS):
        raise ValueError(f'--push {args.push}: only for a whole student as weights (.pth, .safetensors)')
    if args.names and not args.backbone_only:
        raise ValueError(f'--names {args.names}: only with --backbone-only')
    if args.int8 is not None and (args.int8 < 1 or not args.out.endswith('.onnx')):
        raise ValueError(f'--int8 {args.int8}: give the number of pictures, at least 1, and an OUT that ends in .onnx')
    needs = {'--int8': ('train_dataloader',), '--evaluate': ('val_dataloader', 'val_evaluator')}
    for name, keys in needs.items():
        if name in for_graphs and (missing := [key for key in keys if not config.get(key)]):
            raise ValueError(f'{name}: {args.config} has no {" and no ".join(missing)}')


def _scores(config: Config, checkpoint: str, graph: Path | None) -> str:
    """Return a line with the scores of the network or a graph, and the size and time of a graph."""
    metrics, milliseconds = evaluate(config, checkpoint, graph)
    told = ', '.join(f'{name} {value:.4g}' for name, value in metrics.items())
    if graph is None:
        return f'network: {told}'
    return f'{graph.name}: {told}; {graph.stat().st_size / 2**20:.2f} MB, {milliseconds:.1f} ms a call'
