"""The options of ``export``."""

from __future__ import annotations

import argparse

from mmdistill_dense.apps.options import add_config, later

DESCRIPTION = """Export a distilled student: as weights with the plain config that loads them, or as a graph.

The ending of OUT selects the format: .pth and .safetensors are weights; .onnx, .pt (TorchScript) and .pt2
(torch.export) are graphs that run without the mm* stack. --int8 also writes an .onnx graph with 8-bit arithmetic, and
--evaluate compares the scores of the network and of its graphs. --backbone-only writes the weights of the backbone, for
ordinary configs to start from.
"""


def fill_export(parser: argparse.ArgumentParser) -> None:
    parser.description = DESCRIPTION
    add_config(parser, 'config the student was trained with: a file, or METHOD:PAIR[:VARIANT]')
    parser.add_argument('checkpoint', help='checkpoint of that run')
    parser.add_argument('out', help='file to write; weights get a config (.py) beside them')
    parser.add_argument('--format', metavar='NAME', help='what to write (default: by the ending of OUT)')
    parser.add_argument(
        '--size', nargs=2, type=int, metavar=('H', 'W'), help='size of the image that a graph is made and checked with'
    )
    parser.add_argument(
        '--backbone-only',
        action='store_true',
        help="write the backbone's weights alone, under the names that backbone.init_cfg=dict(type='Pretrained') takes",
    )
    parser.add_argument(
        '--names',
        choices=('original', 'timm', 'transformers'),
        help='with --backbone-only, for a VisionTransformer: names of the entries as in files of DINOv3, timm …',
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
    parser.add_argument(
        '--push', metavar='USER/REPO', help='send weights and config with a model card to the Hugging Face hub'
    )
    parser.add_argument('--licence', default='unknown', help='of the weights, for the card, e.g. apache-2.0')
    parser.set_defaults(run=later('report.model_card:export'))
