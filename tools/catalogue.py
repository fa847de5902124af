"""Write the pages and metafiles that are made from the configs, and the badges of README.md, where they are stale."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # tools/ is no installed package

from tools.docs.model_zoo import write

if __name__ == '__main__':
    for file in write():
        print(f'written {file}')
