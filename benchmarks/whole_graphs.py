"""Compare whole graphs with the forks' own inferencers: ``python benchmarks/whole_graphs.py NAME …``, a row for each.

Networks of the zoos with random weights; class weights are drawn wide enough to give boxes and several classes.
20 pictures of 8 sizes, both sides of each answer counted.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from onnxruntime import InferenceSession
from torch import Tensor, nn

from mmdistill_dense.apps.export import open_graph
from mmdistill_dense.apps.export.graphs import describe, graph_of
from mmdistill_dense.apps.export.whole import Ends, export_whole, paired, picture
from mmdistill_dense.networks.building import complete_heads

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
        if isinstance(part, (nn.Conv2d, nn.Linear)):
            if any(word in name.rpartition('head')[2] for word in ('cls', 'conv_seg')) and part.bias is not None:
                nn.init.normal_(part.weight, std=3 / part.weight[0].numel() ** 0.5)
                nn.init.zeros_(part.bias)
            elif (
                '.rtm_reg' in name and part.bias is not None
            ):  # distances, which are positive where a network is trained
                part.bias.data.fill_(2.0)
            elif 'head' in name and name.endswith('reg'):
                nn.init.normal_(part.weight, std=0.5 / part.weight[0].numel() ** 0.5)
        elif isinstance(part, nn.BatchNorm2d):
            part.momentum = None
    graph = graph_of(network)
    network.train()
    with torch.no_grad():  # gives normalisation the statistics of its inputs
        for index in range(3):
            graph.named(torch.randn(2, 3, 192, 256) + index)
    network.cfg = config
    return network.eval()


def run_of(config: Config, network: Any, weights: Path, whole: bool) -> Any:
    """Return a function from a picture to the answer: of a whole graph, or of its parts around torch's network.

    Exporting a network takes minutes; the parts before and behind it take one, and are what this table is about.
    """
    side = next((one['scale'] for one in config.test_pipeline if one['type'] == 'Resize'), (256, 192))
    if whole:
        out = weights.with_suffix('.onnx')
        export_whole(config, weights, out, (side[1], side[0]))
        return open_graph(out)
    graph = graph_of(network)
    with torch.no_grad():
        outputs = {key: list(value.shape) for key, value in graph.named(torch.randn(1, 3, 192, 256)).items()}
    told = {**describe(config, {}, weights), 'task': graph.task, 'outputs': outputs}
    ends = Ends(network, told)
    front, back = (InferenceSession(part.SerializeToString()) for part in (ends.front, ends.back))

    def run(one: Tensor) -> list[Tensor]:
        image, *between = front.run(None, {'picture': one.numpy()})
        with torch.no_grad():
            maps = graph.named(torch.from_numpy(image))
        given = dict(zip(('frame', 'factor', 'shown'), between, strict=True))
        given |= {key: value.numpy() for key, value in maps.items()}
        needed = {one.name for one in back.get_inputs()}
        return [torch.from_numpy(value) for value in back.run(None, {key: given[key] for key in needed})]

    return run


def row(name: str, whole: bool) -> str:
    config, start = config_of(name), time.time()
    network = network_of(config)
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder, 'student.pth')
        torch.save({'state_dict': network.state_dict(), 'meta': {'dataset_meta': {'classes': ['x']}}}, weights)
        run, same, number = run_of(config, network, weights, whole), 0, 0
    pictures = [picture(*SIZES[index % 8], seed=index) for index in range(20)]
    for one in pictures:
        bgr, answer = one.numpy()[..., ::-1].copy(), run(one)
        if config.default_scope == 'mmseg':
            from mmseg.apis import inference_model

            expected = inference_model(network, bgr).pred_sem_seg.data[0]
            same, number = same + int((answer[0] == expected).sum()), number + expected.numel()
        else:
            from mmdet.apis import inference_detector

            found = inference_detector(network, bgr).pred_instances
            same, number = same + paired(found, answer), number + max(len(found), len(answer[0]))
    kind = 'labels' if config.default_scope == 'mmseg' else 'boxes and masks' if len(answer) > 3 else 'boxes'
    return f'| {name} | {number:,} {kind} | {same / max(number, 1):.3%} | {time.time() - start:.0f} s |'


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('names', nargs='*', help='networks (default: all)')
    parser.add_argument('--whole', action='store_true', help='write whole graphs, which takes minutes for each')
    given = parser.parse_args()
    print('| network | compared | equal | time |\n|---|---|---|---|', flush=True)
    for wanted in given.names or ZOO:
        try:
            print(row(wanted, given.whole), flush=True)
        except Exception as error:  # one network does not stop the others
            print(f'| {wanted} | {type(error).__name__}: {str(error)[:600]} | | |', flush=True)
