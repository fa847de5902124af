"""python tools/train.py CONFIG [--work-dir DIR] [--resume [CHECKPOINT]] [--amp] [--cfg-options KEY=VALUE ...]"""

from mmdistill_dense.apps.commands.cli import main_train

if __name__ == '__main__':
    main_train()
