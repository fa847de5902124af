"""How the demonstration shows how far its trainings are."""

import contextlib
import time
from collections.abc import Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

SILENCE = 8.0  # seconds between two lines where there is no terminal


class Lines:
    """Prints how far each training is, every few seconds."""

    def __init__(self, console: Console) -> None:
        self.console, self.said, self.state = console, time.monotonic(), dict[str, str]()

    def update(self, title: str, done: int, total: int, loss: float) -> None:
        """Note how far a training is."""
        self.state[title] = 'test' if done == total else f'{done}/{total}' + (f', loss {loss:.2f}' if done else '')

    def tick(self) -> None:
        """Print a line if the last one is old."""
        if time.monotonic() - self.said > SILENCE:
            self.said = time.monotonic()
            states = [f'{" ".join(title.split())}: {state}' for title, state in self.state.items()]
            self.console.print('; '.join(states) or 'getting ready', soft_wrap=True)

    def end(self, title: str) -> None:
        """Forget a training."""
        self.state.pop(title, None)


class Bars:
    """Shows how far each training is, live."""

    def __init__(self, progress: Progress) -> None:
        self.progress, self.rows = progress, dict[str, TaskID]()

    def update(self, title: str, done: int, total: int, loss: float) -> None:
        """Move a training's bar."""
        if title not in self.rows:
            self.rows[title] = self.progress.add_task(title, total=total, loss=loss)
        self.progress.update(self.rows[title], completed=done, loss=loss)

    def tick(self) -> None:
        """Do nothing: the bars move by themselves."""

    def end(self, title: str) -> None:
        """Remove a training's bar."""
        if title in self.rows:
            self.progress.remove_task(self.rows.pop(title))


@contextlib.contextmanager
def show_progress(console: Console) -> Iterator[Lines | Bars]:
    """Yield what shows the progress: bars on a terminal, lines elsewhere."""
    if not console.is_terminal:
        yield Lines(console)
        return
    columns = (TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    loss_column = TextColumn('loss {task.fields[loss]:.3f}')
    with Progress(*columns, TimeRemainingColumn(), loss_column, console=console, transient=True) as progress:
        yield Bars(progress)
