"""Answer for a picture by an exported graph, whole or bare: ``python serve_onnx.py student.onnx photo.jpg``.

It needs onnxruntime, numpy and Pillow. Bare graphs: segmentors, and detectors with sigmoid scores whose boxes are
deltas of anchors; others are refused.
"""

import argparse
import json

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def answer(graph, file):
    session = onnxruntime.InferenceSession(graph, providers=['CPUExecutionProvider'])
    told = json.loads(session.get_modelmeta().custom_metadata_map['mmdistill_dense'])
    picture, names = read(file, told['input'].get('orientation')), list(told['outputs'])
    if told['input']['name'] == 'picture':
        return dict(zip(names, session.run(names, {'picture': picture}), strict=True))
    if needs := beyond(told, names):
        raise SystemExit(f'{graph} needs {needs}, which is not done here: export it with --whole.')
    pixels = prepared(picture, told['input'])
    step, (height, width) = told['input']['pad_size_divisor'], pixels.shape[1:]
    image = np.pad(pixels, ((0, 0), (0, -height % step), (0, -width % step)))[None].astype(np.float32)
    outputs = dict(zip(names, session.run(names, {'image': image}), strict=True))
    if told['task'] == 'detection':
        return boxes(outputs, told['decoding'], (height, width), picture.shape[:2])
    logits = outputs['logits'][0, :, :height, :width].transpose(1, 2, 0)
    logits = resized(logits, *picture.shape[:2], corners=told.get('align_corners'))
    if logits.shape[2] == 1:
        return {'labels': (1 / (1 + np.exp(-logits[..., 0])) > told['threshold']).astype(int)}
    return {'labels': logits.argmax(2)}


def read(file, orientation):
    image = Image.open(file) if orientation == 'stored' else ImageOps.exif_transpose(Image.open(file))
    if image.mode.startswith('I'):  # 16 bits, of which OpenCV takes the higher half
        image = Image.fromarray((np.asarray(image) // 256).astype(np.uint8))
    return np.asarray(image.convert('RGB'))


def beyond(told, names):
    given, decoding = told['input'], told.get('decoding') or {}
    nms, coder = decoding.get('nms') or {}, decoding.get('coder')
    kind, coder = nms.get('nms') or {}, coder if isinstance(coder, dict) else {}
    anchored = {name.rpartition('_')[0] for name in names} == {'cls_scores', 'bbox_preds'}
    needs = {
        'another preparation': given.get('unknown') or given['pad'] or given['padding']['size'],
        'padding of another value': given['padding']['value'],
        'windows': (told.get('test_cfg') or {}).get('mode') == 'slide',
    }
    if told['task'] == 'detection':
        needs['another decoding'] = not anchored or decoding.get('scores') != 'sigmoid' or 'score_thr' not in nms
        needs['another coder'] = coder.get('type') != 'DeltaXYWHBBoxCoder' or coder.get('add_ctr_clamp')
        needs['another suppression'] = kind.get('class_agnostic') or kind.get('type', 'nms') != 'nms'
    return ' and '.join(name for name, found in needs.items() if found)


def prepared(picture, told):
    height, width = picture.shape[:2]
    if told['resize']:
        wide, high = told['resize']['scale']
        ratio = min(max(wide, high) / max(height, width), min(wide, high) / min(height, width))
        kept = int(height * ratio + 0.5), int(width * ratio + 0.5)
        picture = np.round(resized(picture, *(kept if told['resize']['keep_ratio'] else (high, wide))))
    picture = picture if told['channels'] == 'RGB' else picture[..., ::-1]
    return ((picture - told['mean']) / told['std']).transpose(2, 0, 1)


def resized(pixels, *sides, corners=False):
    for axis, side in enumerate(sides):
        last = pixels.shape[axis] - 1
        place = np.clip((np.arange(side) + 0.5) * (last + 1) / side - 0.5, 0, last)
        place = np.linspace(0, last, side) if corners else place
        low, share = place.astype(int), np.expand_dims(place % 1, (1, 2) if axis == 0 else (0, 2))
        pixels = pixels.take(low, axis) * (1 - share) + pixels.take(np.minimum(low + 1, last), axis) * share
    return pixels


def boxes(outputs, told, size, shown):
    found = []
    for level, (anchors, stride) in enumerate(zip(told['anchors'], told['strides'], strict=True)):
        scores, deltas = (outputs[f'{name}_{level}'][0].transpose(1, 2, 0) for name in ('cls_scores', 'bbox_preds'))
        rows, columns = np.mgrid[: scores.shape[0], : scores.shape[1]]
        shifts = np.stack([columns * stride[0], rows * stride[1]] * 2, -1)[:, :, None] + np.array(anchors)
        scores = 1 / (1 + np.exp(-scores.reshape(shifts.size // 4, -1)))
        place, label = np.nonzero(scores > told['nms']['score_thr'])
        best = np.argsort(-scores[place, label])[: told['nms']['nms_pre']]
        place, label = place[best], label[best]
        base = shifts.reshape(-1, 4)[place]
        delta = deltas.reshape(-1, 4)[place] * told['coder']['stds'] + told['coder']['means']
        sides = base[:, 2:] - base[:, :2]
        middle, half = (
            (base[:, :2] + base[:, 2:]) / 2 + delta[:, :2] * sides,
            sides * np.exp(np.minimum(delta[:, 2:], 4.135)) / 2,
        )
        corners = np.concatenate([middle - half, middle + half], 1).clip(0, [size[1], size[0]] * 2)
        found.append(
            np.column_stack(
                [corners / np.tile([size[1] / shown[1], size[0] / shown[0]], 2), scores[place, label], label]
            )
        )
    rest, kept = np.concatenate(found), []
    rest = rest[np.argsort(-rest[:, 4])]
    while len(rest) and len(kept) < told['nms']['max_per_img']:
        kept.append(rest[0])
        low, high = np.maximum(rest[:, :2], rest[0, :2]), np.minimum(rest[:, 2:4], rest[0, 2:4])
        inter = (high - low).clip(0).prod(1)
        areas = (rest[:, 2:4] - rest[:, :2]).prod(1)
        rest = rest[
            (inter <= told['nms']['nms']['iou_threshold'] * (areas + areas[0] - inter)) | (rest[:, 5] != rest[0, 5])
        ]
    kept = np.reshape(kept, (-1, 6)).astype(np.float32)
    return {'boxes': kept[:, :4], 'scores': kept[:, 4], 'labels': kept[:, 5].astype(int)}


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('graph')
    parser.add_argument('picture')
    given = parser.parse_args()
    for name, value in answer(given.graph, given.picture).items():
        print(name, value.shape, value, sep='\n')
