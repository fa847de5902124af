"""python tools/suite.py COMMAND DEFINITION: one fair table of distillation methods; --help names the commands."""

import sys

from mmdistill_dense.suite.cli import main

if __name__ == '__main__':
    sys.exit(main())
