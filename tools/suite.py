"""python tools/suite.py run|list|table|cost|slurm DEFINITION.yaml: one fair table of distillation methods."""

import sys

from mmdistill_dense.suite.cli import main

if __name__ == '__main__':
    sys.exit(main())
