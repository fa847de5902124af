"""From two names and a folder of pictures to a distilled student: ``python -m mmdistill_dense new`` and ``run``."""

SUITE = 'suite.yaml'  # of the files of a project, the one that `run` reads
