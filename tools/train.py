"""python tools/train.py CONFIG [--work-dir DIR] [--resume [CHECKPOINT]] [--amp] [--cfg-options KEY=VALUE ...]"""

from mmdistill_dense.apps.commands.training import main_train

if __name__ == '__main__':
    main_train()
