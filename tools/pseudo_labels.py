"""python tools/pseudo_labels.py CONFIG --out DIR [--pictures DIR] [--threshold T]: write a teacher's labels."""

from mmdistill_dense.apps.commands.pseudo_label_command import main_pseudo_labels

if __name__ == '__main__':
    main_pseudo_labels()
