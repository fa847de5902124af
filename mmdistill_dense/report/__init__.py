"""One self-contained HTML page about finished runs: curves, scores, predictions, what the distillation did."""

from mmdistill_dense.report.page import make_report

__all__ = ['make_report']
