"""python tools/list_taps.py CONFIG [--student|--teacher] [--depth N] [--below PATH]: list the taps of a network."""

import sys

from mmdistill_dense.apps.check.cli import main_list_taps

if __name__ == '__main__':
    sys.exit(main_list_taps())
