"""Build the wheel of an unpacked mmcv from a few large C++ files instead of 78 small ones.

python tools/build_mmcv.py OUT    in mmcv's folder; OUT is the folder for the wheel

Nearly all of the compiler's time goes into torch's headers, which every file reads anew. So each file here includes
many of mmcv's, which stay as they are. A build for CUDA, ROCm or another accelerator is left alone.
"""

import argparse
import os
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch.utils import cpp_extension

LONGEST = 'pytorch/pybind.cpp'  # compiled alone and first: it takes a third of the time
# These define the same names, so each goes into a unit of its own.
APART = [f'cpu/{name}.cpp' for name in ('bezier_align', 'roi_align', 'roi_align_rotated', 'rotated_feature_align')]
# These define the macros min and max, and open the namespace std: nothing may follow them.
AT_THE_END = ['cpu/psamask.cpp', 'pytorch/contour_expand.cpp']


def group(sources: Sequence[str], count: int) -> list[list[str]]:
    """Divide the source files into units of about the same size.

    Args:
        sources: paths of the C++ files.
        count: number of units beside the one of ``LONGEST``.
    """
    units: list[list[str]] = [[] for _ in range(max(count, len(APART)))]
    for names in (APART, AT_THE_END):
        for unit, name in zip(units, names, strict=False):
            unit += [source for source in sources if source.endswith(name)]
    longest = [source for source in sources if source.endswith(LONGEST)]
    rest = set(sources).difference(longest, *units)
    for source in sorted(rest, key=lambda path: (-os.path.getsize(path), path)):
        min(units, key=lambda unit: sum(map(os.path.getsize, unit))).append(source)
    for unit in units:
        unit.sort(key=lambda path: path.endswith(tuple(AT_THE_END)))
    return [longest, *units]


def write_units(sources: Sequence[str], count: int, folder: Path) -> list[str]:
    """Write a C++ file for each unit, which includes the unit's source files; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index, unit in enumerate(group(sources, count)):
        path = folder / f'unit_{index:02d}.cpp'
        path.write_text(''.join(f'#include "{os.path.abspath(source)}"\n' for source in unit), encoding='utf-8')
        paths.append(str(path))
    return paths


def main() -> None:
    """Run mmcv's own setup.py with the list of C++ files replaced."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('out', type=Path, help='folder for the wheel')
    out = parser.parse_args().out.resolve()
    count = int(os.environ.get('MAX_JOBS', '1'))
    plain = cpp_extension.CppExtension

    def from_units(name: str, sources: Sequence[str], *args: Any, **kwargs: Any) -> Any:
        return plain(name, write_units(sources, count, out / 'units'), *args, **kwargs)

    cpp_extension.CppExtension = from_units
    sys.argv = ['setup.py', 'bdist_wheel', '--dist-dir', str(out)]
    sys.path.insert(0, os.getcwd())
    runpy.run_path('setup.py', run_name='__main__')


if __name__ == '__main__':
    main()
