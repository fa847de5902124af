"""Check a config before training: what it would train, and what is wrong with it."""

from typing import TYPE_CHECKING

from mmdistill_dense.utils.lazy import import_lazily

if TYPE_CHECKING:
    from mmdistill_dense.apps.check.context import Options
    from mmdistill_dense.apps.check.run import CheckReport, check_config
    from mmdistill_dense.guards.findings import Finding

__all__ = ['CheckReport', 'Finding', 'Options', 'check_config']

import_lazily(__name__, __file__)
