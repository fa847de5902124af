"""``mmdistill export``: what is asked for, and what is printed of it."""

import argparse

from mmengine.config import Config

from mmdistill_dense.apps.export.graphs import is_graph, read_description
from mmdistill_dense.apps.export.write_student import evaluate, export_backbone, export_graph, export_student
from mmdistill_dense.apps.recipes.named import read_config
from mmdistill_dense.utils.process import errors_only
from mmdistill_dense.utils.validate import size_text
from mmdistill_dense.weights.strict_load import plain_config


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
    exported = export_graph(config, args.checkpoint, args.out, args.size, args.whole)
    if args.whole:
        description = read_description(exported.path)
        trial, fixed = description['tried'], description['input']['shape'][0] != 'height'
        sizes = ', '.join(map(size_text, trial['pictures']))
        compared = f'{trial["compared"]} {trial["counted"]} of the network, on made pictures of {sizes}'
        print(f'graph   {exported.path}, from pictures of {"this size alone" if fixed else "any size"} to answers')
        share = f'{trial["equal"]:.2%}' if trial['compared'] else 'not known'
        print(f'equal   {share} of {compared}')
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
        if graph is not None:
            scores += f'; {graph.stat().st_size / 2**20:.2f} MiB, {milliseconds:.1f} ms a call'
        print(f'{graph.name if graph else "network"}: {scores}', flush=True)


def _check_options(args: argparse.Namespace, config: Config) -> None:
    """Refuse options that would have no effect, or fail after the graph is written."""
    names = ('size', 'whole', 'evaluate')
    for_graphs = [f'--{name}' for name in names if getattr(args, name) not in (None, False)]
    if for_graphs and (args.backbone_only or not is_graph(args.out)):
        raise ValueError(f'{", ".join(for_graphs)}: only for graphs (.onnx, .pt2), and {args.out} gets weights')
    if args.names and not args.backbone_only:
        raise ValueError(f'--names {args.names}: only with --backbone-only')
    if args.evaluate and not args.whole and 'roi_head' in plain_config(config).model:
        raise ValueError('--evaluate: the graph of a two-stage detector ends before its RoI heads: add --whole')
    if args.evaluate and (missing := [key for key in ('val_dataloader', 'val_evaluator') if not config.get(key)]):
        raise ValueError(f'--evaluate: {args.config} has no {" and no ".join(missing)}')
