"""A row of each tool that measures, and the words that start it."""

from mmdistill_dense.apps.inspect.step_cost import Timing
from tools.benchmark import compare_losses, on_device, step

TIME = Timing(1.0, 1.0, 1.0)
ROWS = {
    'losses': (compare_losses.Row('at', 'row', TIME, TIME, 1, 1, 1, 0.0, 0.0), compare_losses, 'measure'),
    'methods': (dict(difference=0.0, waits_control=0, waits_distilled=0), on_device, 'measure'),
    'step': (step.StepCost(1, (8, 8), 'random', TIME, TIME, TIME, {}, {}, 0, 0), step, 'measure_step'),
}
WORDS = {
    'losses': ['--method', 'at', 'kd', '--size', 'small'],
    'methods': ['--pair', on_device.SEG, '--method', 'kd', 'cwd'],
    'step': ['--recipe', on_device.SEG, '--method', 'kd', 'cwd', '--name', 'seg'],
}
