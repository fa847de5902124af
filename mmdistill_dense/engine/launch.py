"""What a process needs before a runner exists; importing this module does it.

The runtime configs name it in ``custom_imports``, which mmengine imports while it reads the config: that is the only
place before the runner opens a process group and loads weights. No other module of the package does anything when it is
imported, but :mod:`mmdistill_dense.ops_check`, which the configs of detection name as well.
"""

from mmdistill_dense.engine.gloo import open_gloo
from mmdistill_dense.weights.mmengine_loader import install_reader

install_reader()
open_gloo()
