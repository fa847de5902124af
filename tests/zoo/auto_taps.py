"""What ``student_tap='auto'`` chooses in networks of the zoo: the table of auto_taps.md beside this file.

``python -m tests.zoo.auto_taps`` writes the table anew; it takes a minute.
"""

from functools import cache, partial
from pathlib import Path

from mmengine.registry import DefaultScope

from mmdistill_dense.config.resolve import load_model
from mmdistill_dense.networks.auto_taps import Chosen, Found, discover, pair_taps
from mmdistill_dense.networks.building import build_network
from mmdistill_dense.utils.process import quiet

PAGE = Path(__file__).with_suffix('.md')
SEGMENTORS = (
    'ann/ann_r50-d8_4xb2-40k_cityscapes-512x1024',
    'apcnet/apcnet_r50-d8_4xb2-40k_cityscapes-512x1024',
    'bisenetv1/bisenetv1_r18-d32_4xb4-160k_cityscapes-1024x1024',
    'bisenetv2/bisenetv2_fcn_4xb4-160k_cityscapes-1024x1024',
    'ccnet/ccnet_r50-d8_4xb2-40k_cityscapes-512x1024',
    'cgnet/cgnet_fcn_4xb4-60k_cityscapes-680x680',
    'danet/danet_r50-d8_4xb2-40k_cityscapes-512x1024',
    'ddrnet/ddrnet_23-slim_in1k-pre_2xb6-120k_cityscapes-1024x1024',
    'deeplabv3/deeplabv3_r18-d8_4xb2-80k_cityscapes-512x1024',
    'deeplabv3plus/deeplabv3plus_r101-d8_4xb2-40k_cityscapes-512x1024',
    'dmnet/dmnet_r50-d8_4xb2-40k_cityscapes-512x1024',
    'dpt/dpt_vit-b16_8xb2-160k_ade20k-512x512',
    'encnet/encnet_r50-d8_4xb2-40k_cityscapes-512x1024',
    'erfnet/erfnet_fcn_4xb4-160k_cityscapes-512x1024',
    'fastscnn/fast_scnn_8xb4-160k_cityscapes-512x1024',
    'fcn/fcn_r18-d8_4xb2-80k_cityscapes-512x1024',
    'hrnet/fcn_hr18_4xb2-160k_cityscapes-512x1024',
    'icnet/icnet_r18-d8_4xb2-80k_cityscapes-832x832',
    'isanet/isanet_r50-d8_4xb2-40k_cityscapes-512x1024',
    'mask2former/mask2former_r50_8xb2-90k_cityscapes-512x1024',
    'mobilenet_v2/mobilenet-v2-d8_pspnet_4xb2-80k_cityscapes-512x1024',
    'mobilenet_v3/mobilenet-v3-d8_lraspp_4xb4-320k_cityscapes-512x1024',
    'ocrnet/ocrnet_hr18_4xb2-160k_cityscapes-512x1024',
    'pidnet/pidnet-s_2xb6-120k_1024x1024-cityscapes',
    'point_rend/pointrend_r50_4xb2-80k_cityscapes-512x1024',
    'pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024',
    'segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512',
    'segmenter/segmenter_vit-t_mask_8xb1-160k_ade20k-512x512',
    'segnext/segnext_mscan-t_1xb16-adamw-160k_ade20k-512x512',
    'sem_fpn/fpn_r50_4xb2-80k_cityscapes-512x1024',
    'stdc/stdc1_4xb12-80k_cityscapes-512x1024',
    'swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512',
    'upernet/upernet_r18_4xb2-80k_cityscapes-512x1024',
    'vit/vit_deit-s16_upernet_8xb2-160k_ade20k-512x512',
)
DETECTORS = (
    'atss/atss_r50_fpn_1x_coco',
    'cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco',
    'centernet/centernet_r18_8xb16-crop512-140e_coco',
    'cornernet/cornernet_hourglass104_10xb5-crop511-210e-mstest_coco',
    'deformable_detr/deformable-detr_r50_16xb2-50e_coco',
    'detr/detr_r50_8xb2-150e_coco',
    'dino/dino-4scale_r50_8xb2-12e_coco',
    'faster_rcnn/faster-rcnn_r50_fpn_1x_coco',
    'fcos/fcos_r50-caffe_fpn_gn-head_1x_coco',
    'gfl/gfl_r50_fpn_1x_coco',
    'swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco',
    'panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco',
    'reppoints/reppoints-moment_r50_fpn-gn_head-gn_1x_coco',
    'retinanet/retinanet_r18_fpn_1x_coco',
    'rtmdet/rtmdet_tiny_8xb32-300e_coco',
    'sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco',
    'ssd/ssd300_coco',
    'tridentnet/tridentnet_r50-caffe_1x_coco',
    'yolo/yolov3_mobilenetv2_8xb24-320-300e_coco',
    'yolof/yolof_r50-c5_8xb8-1x_coco',
    'yolox/yolox_s_8xb8-300e_coco',
)
NAMES = (*(f'mmseg::{name}.py' for name in SEGMENTORS), *(f'mmdet::{name}.py' for name in DETECTORS))


@cache
def found(name: str, trains: bool = False) -> Found:
    """The places of a network by its config's name, at its training size."""
    with quiet():
        config = load_model(dict(cfg=name), 'model')
        size = (config.model.get('data_preprocessor') or {}).get('size')
        with DefaultScope.overwrite_default_scope(config.scope):
            return discover(partial(build_network, config, pretrained=False), size, trains)


def with_itself(name: str) -> Chosen:
    """The pairs of a network as student and teacher."""
    return pair_taps(found(name, trains=True), found(name))


def row(name: str) -> str:
    """A line of the table."""
    chosen = with_itself(name)
    taps = ', '.join(f'`{pair.student.tap}`' for pair in chosen.pairs)
    strides = ', '.join(str(pair.student.stride) for pair in chosen.pairs)
    notes = '; '.join(note.removeprefix('student: ') for note in chosen.notes if not note.startswith('teacher: '))
    return f'| `{Path(name.partition("::")[2]).stem}` | {taps} | {strides} | {notes or "-"} |'


def table() -> str:
    """The whole table."""
    lines = ['| network | taps | strides | left out |', '|---|---|---|---|', *map(row, NAMES)]
    return '\n'.join(lines) + '\n'


def shown() -> str:
    """The table as the page shows it."""
    return PAGE.read_text(encoding='utf-8')


if __name__ == '__main__':
    PAGE.write_text(table(), encoding='utf-8')
