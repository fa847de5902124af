"""python tools/suite.py COMMAND DEFINITION: compare distillation methods in one table; see --help."""

import sys

from mmdistill_dense.apps.suite.cli import main

if __name__ == '__main__':
    sys.exit(main())
