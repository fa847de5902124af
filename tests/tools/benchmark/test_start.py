"""The start benchmark sees every stretch of a real start, and the package is imported for nothing."""

import os
import subprocess
import sys

import pytest

from mmdistill_dense.analysis.timing import Timing
from mmdistill_dense.recipes.compose import configs
from tools.benchmark import start as benchmark_start
from tools.benchmark.start import Construction, Start, StartCost

LEAF = configs() / 'kd' / 'toy_seg.py'


def test_the_package_alone_imports_nothing_heavy() -> None:
    code = 'import sys, mmdistill_dense; print({name.split(".")[0] for name in sys.modules})'
    loaded = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout
    assert not [name for name in ('torch', 'numpy', 'mmengine', 'mmcv', 'mmseg', 'mmdet') if f"'{name}'" in loaded]


def test_a_start_is_split_into_stretches() -> None:
    start = benchmark_start.measure_start(LEAF, 'tools/train.py')
    names = list(start.stretches)
    assert names[0] == 'interpreter, mmengine, config' and names[-1] == benchmark_start.REST
    for name in ('imports of mmseg', 'imports of mmdistill_dense', 'networks', 'first step'):
        assert name in names
    assert all(cpu >= 0 and wall >= 0 for cpu, wall in start.stretches.values())
    assert start.total[0] == pytest.approx(sum(cpu for cpu, _ in start.stretches.values()))


def test_a_command_that_fails_is_told(tmp_path) -> None:
    with pytest.raises(RuntimeError, match='failed: (?s:.)*ZeroDivisionError'):
        benchmark_start._cpu_of([sys.executable, '-c', '1/0'], os.environ)


def test_the_dry_run_is_part_of_the_construction() -> None:
    found = benchmark_start.measure_construction(LEAF)
    assert found.name == 'toy_seg' and 0 < found.dry_run < found.distilled and found.student > 0


def test_tables() -> None:
    imports = {name: Timing(float(k), 0, 9) for k, name in enumerate(benchmark_start.IMPORTS)}
    start = Start('mim', {'imports': (1.0, 2.0), 'first step': (3.0, 4.0)})
    cost = StartCost(imports, {'mim, distilled': start}, [Construction('toy', 0.25, 1.0, 0.5)])
    text = benchmark_start.as_markdown(cost)
    assert '**+1.00** beyond torch |' in text
    assert '| first step | 3.00 (4.00) |' in text and '| **in all** | **4.00 (6.00)** |' in text
    assert '| toy | 0.25 | 1.00 | **0.50** |' in text
    assert benchmark_start.section(cost, 'command').chart.bars == {'mim, distilled': (4.0, 4.0, 4.0)}
