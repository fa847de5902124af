"""Check a config before training: ``tools/check.py`` and ``tools/list_taps.py`` as library calls."""

from mmdistill_dense.apps.check.context import Finding, Options
from mmdistill_dense.apps.check.run import Report, check_config

__all__ = ['Finding', 'Options', 'Report', 'check_config']
