"""A step's way through the package is short, so that a reader can follow it."""

import sys
from itertools import pairwise
from pathlib import Path

import mmdistill_dense
from tests import toys

PACKAGE = str(Path(mmdistill_dense.__file__).parent)


def test_a_step_of_cwd_visits_few_files(tmp_path):
    """The second step of three, with its hooks: the first looks for faults, the last saves."""
    distillers = dict(cwd=dict(type='CWD', student_tap='decode_head.conv_seg'))
    model = toys.model_config(toys.seg_net(), toys.seg_teacher(), distillers)
    runner = toys.make_runner(tmp_path, model, iters=3, default_hooks=dict(checkpoint=dict(interval=9)))
    visits, run_iter = list[tuple[str, str]](), runner.train_loop.run_iter

    def note(frame, event, _):
        if event in ('call', 'return') and frame.f_code.co_filename.startswith(PACKAGE):
            visits.append((frame.f_code.co_filename, event))

    def noted(batch):
        sys.setprofile(note if runner.iter == 1 else None)
        try:
            return run_iter(batch)
        finally:
            sys.setprofile(None)

    runner.train_loop.run_iter = noted
    runner.train()
    files = [file for file, event in visits if event == 'call']
    changes = sum(file != following for (file, _), (following, _) in pairwise(visits))
    assert 100 < len(files) <= 205 and len(set(files)) <= 15 and changes <= 63
