"""python tools/diagnose.py CONFIG [--checkpoint CHECKPOINT] [--batches N] [--taps] [--stages] [--json FILE]"""

from mmdistill_dense.apps.inspect.gradients import main_diagnose

if __name__ == '__main__':
    main_diagnose()
