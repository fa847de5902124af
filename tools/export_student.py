"""Write a distilled student as an ordinary mmseg or mmdet network: its weights and the plain config that loads them.

With --backbone-only the weights of its backbone alone, which an ordinary config starts from.
"""

import argparse

from mmengine.config import Config, DictAction

from mmdistill_dense.checkpoint import export_student
from mmdistill_dense.pretrain.export import export_backbone


def main() -> None:
    """Read the command line and export."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config the student was trained with')
    parser.add_argument('checkpoint', help='checkpoint of that run')
    parser.add_argument('out', help='weights to write (.pth); the config is written beside them (.py)')
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, help='the overrides given in training: key=value'
    )
    parser.add_argument(
        '--backbone-only',
        action='store_true',
        help="write the backbone's weights alone, under the names that backbone.init_cfg=dict(type='Pretrained') takes",
    )
    args = parser.parse_args()
    config = Config.fromfile(args.config)
    if args.cfg_options:
        config.merge_from_dict(args.cfg_options)
    if args.backbone_only:
        print(f'weights {export_backbone(config, args.checkpoint, args.out)}')
        return
    weights, plain = export_student(config, args.checkpoint, args.out)
    print(f'weights {weights}\nconfig  {plain}')


if __name__ == '__main__':
    main()
