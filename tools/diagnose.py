"""python tools/diagnose.py CONFIG [--checkpoint CHECKPOINT] [--batches N] [--taps] [--stages] [--json FILE]"""

from mmdistill_dense.analysis.diagnose import main_diagnose

if __name__ == '__main__':
    main_diagnose()
