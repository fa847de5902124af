"""One self-contained HTML page about finished runs: the answer, scores, predictions, curves, settings."""

from typing import TYPE_CHECKING

from mmdistill_dense.utils.lazy import import_lazily

if TYPE_CHECKING:
    from mmdistill_dense.apps.report.page import make_report

__all__ = ['make_report']

import_lazily(__name__, __file__)
