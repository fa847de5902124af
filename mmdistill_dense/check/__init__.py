"""Check a config before training: ``tools/check.py`` and ``tools/list_taps.py`` as library calls."""

from mmdistill_dense.check.context import Options
from mmdistill_dense.check.findings import Finding
from mmdistill_dense.check.run import Report, check_config

__all__ = ['Finding', 'Options', 'Report', 'check_config']
