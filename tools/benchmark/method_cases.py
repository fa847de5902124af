"""The methods that `tools/benchmark.py losses` knows: each has SIZES, DEFAULT_SIZE, ``describe`` and ``cases``."""

from typing import Any

from tools.benchmark import afdcd_cases, baseline_cases, maskd_cases, pcd_cases

METHODS: dict[str, Any] = {
    'afdcd': afdcd_cases,
    'maskd': maskd_cases,
    'pcd': pcd_cases,
    **baseline_cases.METHODS,
}
