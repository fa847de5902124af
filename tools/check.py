"""python tools/check.py CONFIG [--no-weights] [--size H W] [--strict]: check a config before training."""

import sys

from mmdistill_dense.apps.check.cli import main_check

if __name__ == '__main__':
    sys.exit(main_check())
