"""Measure distilled steps, losses, or every method beside the CPU; see --help."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # tools/ is no installed package

from tools.benchmark.command import main

if __name__ == '__main__':
    sys.exit(main())
