"""python tools/probe.py CONFIG CHECKPOINT DATA [--images N] [--size SIDE] [--batch N] [--device DEVICE]"""

from mmdistill_dense.apps.inspect.picture_probe import main_probe

if __name__ == '__main__':
    main_probe()
