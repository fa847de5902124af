"""One self-contained HTML page about finished runs: curves, scores, predictions, effects of the distillation."""

from mmdistill_dense.apps.report.page import make_report

__all__ = ['make_report']
