"""Compare whole graphs in onnxruntime with mmseg's and mmdet's own inference, and write a page of the results.

``python benchmarks/whole_graphs.py`` measures the networks that the page lacks, ``… NAME …`` those that are named. They
are of the zoos, with random weights, scaled to give boxes and several classes. Each takes minutes.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmdet.apis import inference_detector
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmseg.apis import inference_model
from torch import Tensor, nn

from mmdistill_dense.apps.export import open_graph
from mmdistill_dense.apps.export.graphs import graph_of
from mmdistill_dense.apps.export.picture_graph import agreement, picture
from mmdistill_dense.apps.export.write_student import export_graph
from mmdistill_dense.networks.building import complete_heads
from mmdistill_dense.utils.files import write_text

PAGE = Path(__file__).parents[1] / 'docs' / 'whole_graphs.md'
HEAD = """# Whole graphs

```bash
# needs an hour
python benchmarks/whole_graphs.py
```

Zoo networks with random weights as whole graphs in onnxruntime, against mmdet's and mmseg's own inference: 20 made
pictures of 8 sizes. Equal boxes have an IoU from 0.99 on (masks too), one label, and scores within 0.001. mmseg's
DDRNet and PIDNet stop where 8 divides not both sides; their whole graphs pad there.

| network | compared | equal |
| :-- | :-- | --: |
"""
SIZES = [(120, 160), (160, 120), (97, 131), (128, 256), (200, 200), (75, 300), (240, 180), (333, 211)]
R18 = {'backbone.depth': 18, 'neck.in_channels': [64, 128, 256, 512]}
# name: config of the zoo, changed keys of the model
ZOO: dict[str, tuple[str, dict[str, Any]]] = {
    'RetinaNet': ('mmdet::retinanet/retinanet_r18_fpn_1x_coco.py', {}),
    'GFL': ('mmdet::gfl/gfl_r50_fpn_1x_coco.py', R18),
    'ATSS': ('mmdet::atss/atss_r50_fpn_1x_coco.py', R18),
    'FCOS': ('mmdet::fcos/fcos_r50_fpn_gn-head-center-normbbox-centeronreg-giou_8xb8-amp-lsj-200e_coco.py', R18),
    'RTMDet': ('mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py', {}),
    'YOLOX': ('mmdet::yolox/yolox_tiny_8xb8-300e_coco.py', {}),
    'SSD': ('mmdet::ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py', {}),
    'Faster R-CNN': ('mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py', R18),
    'Cascade Mask R-CNN': ('mmdet::cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py', R18),
    'Mask R-CNN': ('mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py', R18),
    'Mask R-CNN C4': ('mmdet::mask_rcnn/mask-rcnn_r50-caffe-c4_1x_coco.py', {}),
    'FCN': ('mmseg::fcn/fcn_r18-d8_4xb2-80k_cityscapes-512x1024.py', {}),
    'PSPNet': ('mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py', {}),
    'DeepLabV3+': ('mmseg::deeplabv3plus/deeplabv3plus_r18-d8_4xb2-80k_cityscapes-512x1024.py', {}),
    'DeepLabV3': ('mmseg::deeplabv3/deeplabv3_r18-d8_4xb2-80k_cityscapes-512x1024.py', {}),
    'Fast-SCNN': ('mmseg::fastscnn/fast_scnn_8xb4-160k_cityscapes-512x1024.py', {}),
    'BiSeNetV2': ('mmseg::bisenetv2/bisenetv2_fcn_4xb4-160k_cityscapes-1024x1024.py', {}),
    'SegFormer': ('mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py', {}),
    'UPerNet': ('mmseg::upernet/upernet_r18_4xb2-80k_cityscapes-512x1024.py', {}),
    'DDRNet': ('mmseg::ddrnet/ddrnet_23-slim_in1k-pre_2xb6-120k_cityscapes-1024x1024.py', {}),
    'PIDNet': ('mmseg::pidnet/pidnet-s_2xb6-120k_1024x1024-cityscapes.py', {}),
    'STDC': ('mmseg::stdc/stdc1_4xb12-80k_cityscapes-512x1024.py', {}),
    'ICNet': ('mmseg::icnet/icnet_r18-d8_4xb2-80k_cityscapes-832x832.py', {}),
}


def config_of(name: str) -> Config:
    file, changed = ZOO[name]
    config = copy.deepcopy(Config.fromfile(_path(file)))
    config.merge_from_dict({f'model.{key}': value for key, value in changed.items()})
    for part in [config.model, *config.model.values()]:
        if isinstance(part, dict):
            part.pop('init_cfg', None)
            part.pop('pretrained', None)
    for step in config.test_dataloader.dataset.pipeline:
        if step['type'] == 'Resize':
            if name in ('DDRNet', 'PIDNet'):  # mmseg's need sides that 8 divides
                step['keep_ratio'] = False
            step['scale'] = (320, 320) if not step.get('keep_ratio') or name in ('RTMDet', 'YOLOX') else (256, 192)
        elif step['type'] == 'Pad' and step.get('size'):
            step['size'] = (320, 320)
    config.test_pipeline = config.test_dataloader.dataset.pipeline
    return config


def _path(file: str) -> Path:
    from importlib import import_module

    scope, _, name = file.partition('::')
    return Path(import_module(scope).__path__[0], '.mim', 'configs', name)


def network_of(config: Config) -> Any:
    init_default_scope(config.default_scope)
    torch.manual_seed(0)
    network = MODELS.build(copy.deepcopy(config.model))
    network.init_weights()
    complete_heads(network)
    for name, part in network.named_modules():
        if isinstance(part, (nn.Conv2d, nn.Linear)) and 'conv_seg' in name:
            nn.init.normal_(part.weight, std=3 / part.weight[0].numel() ** 0.5)
            nn.init.zeros_(part.bias)
    graph = graph_of(network.eval())
    for part in network.modules():  # alone: some networks have other outputs in training
        if isinstance(part, nn.BatchNorm2d):
            part.train().momentum = None
    with torch.no_grad():  # gives normalisation the statistics of its inputs
        for index in range(3):
            graph.named_outputs(torch.randn(2, 3, 192, 256) + index)
    network.cfg = config
    network.eval()
    if config.default_scope == 'mmdet':
        settle(network)
        inference_detector(network, picture(192, 256).numpy())
    return network


def settle(network: Any) -> None:
    """Let scores differ and boxes have sides: class and box layers get a spread at the first picture."""

    def spread(part: Any, given: Any, found: Tensor, wide: float, middle: float) -> Tensor:
        hooks.pop(part).remove()
        scale = wide / found.std()
        part.bias.data = (part.bias - found.mean()) * scale + middle
        part.weight.data *= scale
        return part(*given)

    hooks = {}
    for name, part in network.named_modules():
        place, own = name.rpartition('head')[2], isinstance(part, (nn.Conv2d, nn.Linear)) and part.bias is not None
        if own and 'head' in name and any(word in place for word in ('cls', 'obj', 'logits')):
            hooks[part] = part.register_forward_hook(partial(spread, wide=1.5, middle=-1.0))
        elif own and 'head' in name and ('reg' in place or 'bbox' in place):  # distances are positive
            distances = 'rtm_reg' in place or (type(network).__name__ == 'FCOS' and place.endswith('conv_reg'))
            hooks[part] = part.register_forward_hook(partial(spread, wide=0.3, middle=2.0 if distances else 0.0))


def row(name: str) -> str:
    """Return the cells of a network, without its name."""
    config = config_of(name)
    network = network_of(config)
    scale = next((one['scale'] for one in config.test_pipeline if one['type'] == 'Resize'), (256, 192))
    with tempfile.TemporaryDirectory() as folder:
        weights, out = Path(folder, 'student.pth'), Path(folder, 'student.onnx')
        torch.save({'state_dict': network.state_dict(), 'meta': {'dataset_meta': {'classes': ['x']}}}, weights)
        export_graph(config, weights, out, scale[::-1], whole=True)
        run = open_graph(out)
    pictures = [picture(*SIZES[index % 8], seed=index) for index in range(20)]
    infer = inference_model if config.default_scope == 'mmseg' else inference_detector
    samples = (infer(network, one.numpy()[..., ::-1].copy()) for one in pictures)
    equal, number = agreement(run, zip(pictures, samples, strict=True))
    masks = ' and masks' if getattr(network, 'with_mask', False) else ''
    kind = 'labels' if config.default_scope == 'mmseg' else f'boxes{masks}'
    return f'{number:,} {kind} | {equal:.2%} |'


def page(rows: Mapping[str, str]) -> str:
    """Return the text of the page from the cells of networks; those with equal ones share a row."""
    missing, shared = [name for name in ZOO if name not in rows], dict[str, list[str]]()
    for name in ZOO:
        if name in rows:
            shared.setdefault(rows[name], []).append(name)
    rest = f'\nNot measured yet: {len(missing)} others that the script names.\n' if missing else ''
    return HEAD + ''.join(f'| {", ".join(names)} | {cells}\n' for cells, names in shared.items()) + rest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('names', nargs='*', help=f'networks (default: those that the page lacks): {", ".join(ZOO)}')
    lines = PAGE.read_text(encoding='utf-8').splitlines() if PAGE.exists() else []
    cells = (line.removeprefix('| ').partition(' | ') for line in lines if line.startswith('| '))
    rows = {name: rest for names, _, rest in cells for name in names.split(', ') if name in ZOO}
    for name in parser.parse_args().names or [name for name in ZOO if name not in rows]:
        rows[name] = row(name)
        write_text(PAGE, page(rows))


if __name__ == '__main__':
    main()
