"""From two names and a folder of pictures to a distilled student: ``mmdistill new`` and ``run``."""

SUITE = 'suite.yaml'  # of the files of a project, the one that `run` reads
DRAWN, LABELS, BOXES = 'drawn', 'labels', 'predictions.json'  # what `predict` writes into its folder
MARK = '.predicted'  # and beside them, to tell them from files of the user's
