"""The command line of ``tools/export_student.py``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import DictAction

from mmdistill_dense.export import FORMATS, export_graph, export_student
from mmdistill_dense.export.formats import WRITERS, format_of
from mmdistill_dense.pretrain.export_backbone import export_backbone
from mmdistill_dense.recipes.named import read_config

DESCRIPTION = """Export a distilled student: as weights with the plain config that loads them, or as a graph.

The ending of OUT selects the format: .pth and .safetensors are weights; .onnx, .pt (TorchScript) and .pt2
(torch.export) are graphs that run without the mm* stack. --backbone-only writes the weights of the backbone, for
ordinary configs to start from.
"""


def main_export(argv: Sequence[str] | None = None) -> None:
    """Read the command line and export.

    Args:
        argv: The command line without the program's name. Default: that of this process.
    """
    parser = argparse.ArgumentParser(description=DESCRIPTION)
    parser.add_argument('config', help='config the student was trained with: a file, or METHOD:PAIR[:VARIANT]')
    parser.add_argument('checkpoint', help='checkpoint of that run')
    parser.add_argument('out', help='file to write; weights get a config (.py) beside them')
    parser.add_argument('--format', choices=FORMATS, help='what to write (default: by the ending of OUT)')
    parser.add_argument(
        '--size', nargs=2, type=int, metavar=('H', 'W'), help='size of the image that a graph is made and checked with'
    )
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, help='the overrides given in training: key=value'
    )
    parser.add_argument(
        '--backbone-only',
        action='store_true',
        help="write the backbone's weights alone, under the names that backbone.init_cfg=dict(type='Pretrained') takes",
    )
    args = parser.parse_args(argv)
    config = read_config(args.config, args.cfg_options)
    if args.backbone_only:
        print(f'weights {export_backbone(config, args.checkpoint, args.out)}')
        return
    if format_of(Path(args.out), args.format) not in WRITERS:
        weights, plain = export_student(config, args.checkpoint, args.out)
        print(f'weights {weights}\nconfig  {plain}')
        return
    found = export_graph(config, args.checkpoint, args.out, args.size)
    print(f'graph   {found.path}\noutputs {", ".join(found.outputs)}')
    print(f'free    {", ".join(found.axes) or "nothing: one picture of the given size"}')
    for reason in found.reasons:
        print(f'        not {reason}')
    print(f'differs from the network by {found.difference:.1e} of its largest value')
