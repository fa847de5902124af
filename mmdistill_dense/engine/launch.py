"""Install the safe reader, choose a port, open gloo and let known mistakes stand last, when this module is imported.

The runtime configs name it in ``custom_imports``, which mmengine imports while it reads the config. That is the only
moment before the runner opens a process group and loads weights. The only other module of the package whose import has
an effect is :mod:`mmdistill_dense.ops_check`, which the configs of detection name as well.
"""

from mmdistill_dense.engine.ddp import choose_port, open_gloo
from mmdistill_dense.utils.process import tell_at_the_end
from mmdistill_dense.weights.mmengine_loader import install_reader

install_reader()
choose_port()
open_gloo()
tell_at_the_end()
