"""python tools/test.py CONFIG CHECKPOINT [--work-dir DIR] [--out PATH] [--show-dir DIR] [--tta]"""

from mmdistill_dense.apps.commands.cli import main_test

if __name__ == '__main__':
    main_test()
