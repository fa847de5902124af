"""Write a distilled student for use elsewhere: as weights, or as a graph that runs without the mm* stack."""

from typing import TYPE_CHECKING

from mmdistill_dense.utils.lazy import import_lazily

if TYPE_CHECKING:
    from mmdistill_dense.apps.export.graphs import open_graph, read_description
    from mmdistill_dense.apps.export.write_student import Exported, export_graph, export_student

__all__ = ['Exported', 'export_graph', 'export_student', 'open_graph', 'read_description']

import_lazily(__name__, __file__)
