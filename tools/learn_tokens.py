"""python tools/learn_tokens.py CONFIG [--work-dir DIR] [--out FILE] [--cfg-options KEY=VALUE ...]"""

from mmdistill_dense.apps.commands.cli import main_learn_tokens

if __name__ == '__main__':
    main_learn_tokens()
