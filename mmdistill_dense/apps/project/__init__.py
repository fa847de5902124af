"""From two names and a folder of pictures to a distilled student: ``python -m mmdistill_dense new`` and ``run``."""
