"""Write an exported graph in 8 bits: ``python quantize_int8.py student.onnx PICTURES student.int8.onnx``.

PICTURES is a folder of training pictures, which give the range of each activation. It needs onnx, onnxruntime, numpy
and Pillow. Of a whole graph only the convolutions get 8 bits, so that boxes stay exact.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from serve_onnx import prepared, read, resized

ENDINGS = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff')


class Pictures(CalibrationDataReader):
    """Gives each picture as the graph takes it."""

    def __init__(self, files, about):
        self.files, self.about = iter(files), about

    def get_next(self):
        file = next(self.files, None)
        if file is None:
            return None
        picture = read(file, self.about.get('orientation'))
        if self.about['name'] == 'picture':
            return {'picture': picture}
        pixels, sides, step = prepared(picture, self.about), [], self.about['pad_size_divisor']
        for side, free, least in zip(pixels.shape[1:], self.about['shape'][2:], self.about['smallest'], strict=True):
            sides.append(free if isinstance(free, int) else max(least, side + -side % step))
        fitted = resized(pixels.transpose(1, 2, 0), *sides).transpose(2, 0, 1)
        return {'image': fitted[None].astype(np.float32)}


def quantize(graph, folder, out, count):
    files = sorted(file for file in Path(folder).rglob('*') if file.suffix.lower() in ENDINGS)
    if not files:
        raise SystemExit(f'{folder}: no pictures in it')
    exported = onnx.load(graph)
    about = json.loads({entry.key: entry.value for entry in exported.metadata_props}['mmdistill_dense'])['input']
    kinds = ['Conv'] if about['name'] == 'picture' else None  # None: all that onnxruntime knows
    reader = Pictures(files[:: max(1, len(files) // count)][:count], about)
    with tempfile.TemporaryDirectory() as scratch:
        folded = f'{scratch}/folded.onnx'
        quant_pre_process(graph, folded, skip_symbolic_shape=True)  # folds norms into convolutions
        quantize_static(
            folded, out, reader, per_channel=True, activation_type=QuantType.QUInt8, op_types_to_quantize=kinds
        )
    small = onnx.load(out)
    del small.metadata_props[:]
    small.metadata_props.extend(exported.metadata_props)  # the description, which serve_onnx.py reads
    onnx.save(small, out)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('graph')
    parser.add_argument('pictures', metavar='PICTURES', help='folder of training pictures')
    parser.add_argument('out')
    parser.add_argument('--count', type=int, default=64, help='of these pictures (default: %(default)s)')
    given = parser.parse_args()
    quantize(given.graph, given.pictures, given.out, given.count)
    size, small = (Path(file).stat().st_size / 2**20 for file in (given.graph, given.out))
    print(f'{given.out}: {small:.2f} MiB, {given.graph} has {size:.2f} MiB')
