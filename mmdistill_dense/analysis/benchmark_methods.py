"""The methods that `tools/benchmark.py losses` knows: each has SIZES, DEFAULT_SIZE, ``describe`` and ``cases``."""

from typing import Any

from mmdistill_dense.analysis import benchmark_afdcd, benchmark_baselines, benchmark_maskd, benchmark_pcd

METHODS: dict[str, Any] = {
    'afdcd': benchmark_afdcd,
    'maskd': benchmark_maskd,
    'pcd': benchmark_pcd,
    **benchmark_baselines.METHODS,
}
