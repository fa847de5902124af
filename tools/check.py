"""python tools/check.py CONFIG [--no-weights] [--size H W] [--strict]: is it right, before an hour is spent on it?"""

import sys

from mmdistill_dense.check.cli import main_check

if __name__ == '__main__':
    sys.exit(main_check())
