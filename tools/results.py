"""Publish results in docs, compare a suite with published ones or several with each other, restore them; see --help."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # tools/ is no installed package

from tools.docs.results_command import main

if __name__ == '__main__':
    sys.exit(main())
