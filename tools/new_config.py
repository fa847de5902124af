"""python tools/new_config.py --method NAME --pair NAME [--dataset NAME] [--out FILE], or --list, --all"""

from mmdistill_dense.apps.recipes.new_config import main_new_config

if __name__ == '__main__':
    main_new_config()
