"""Runs the shell blocks of the guides in order, in this process: two iterations, large networks narrowed.

And docs/tutorial.ipynb without Jupyter. ``python -m tests.docs_run FOLDER`` stores the outputs of a whole run, without
what mmseg prints about parts that are not installed, the progress of trainings, and the reader's folder in paths.
"""

import ast
import base64
import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from mmengine.config import Config, ConfigDict
from mmengine.registry import DefaultScope
from mmengine.runner import Runner

from mmdistill_dense.__main__ import main
from mmdistill_dense.config.resolve import TEACHER_OPTIONS, is_distill_model, load_model, student_option
from tests import toys
from tests.docs_blocks import ROOT, Block, Command, blocks, commands
from tests.zoo.narrow import narrow

PROJECT = ('datasets', 'own_pair', 'own_method')  # one after the other, in a folder of the reader's
CLONE = ('first_run', 'combining', 'checking', 'auto_taps')  # each in a clone
SIDE = 128
STEPS = 2


def runs(block: Block) -> bool:
    """Tell whether a test runs a block: one of these guides, or what .ci/run does."""
    steps = (ROOT / '.ci/run').read_text(encoding='utf-8')
    if all(command.words[0] == 'make' and f'make {command.words[1]}' in steps for command in commands(block.text)):
        return True
    inside = block.guide.parent == ROOT / 'docs' and block.guide.stem in (*PROJECT, *CLONE)
    return inside and not block.needs and not block.form


def link_clone(folder: Path) -> None:
    """Make a folder one from which the commands of the guides find the project's files, and no others."""
    for name in ('configs', 'tools', 'benchmarks'):
        (folder / name).symlink_to(ROOT / name)


def walk(guides: tuple[str, ...]) -> list[str]:
    """Run the blocks of some guides in the working folder, their files written before; returns the commands."""
    done = []
    with _short(narrowed=guides == PROJECT):
        link_clone(Path())
        chosen = [block for name in guides for block in blocks('bash', 'python', 'yaml') if block.guide.stem == name]
        for block in chosen:
            if block.language != 'bash' and block.file and '/' not in block.file:
                Path(block.file).write_text(block.text, encoding='utf-8')
        # the reader's own config last: its teacher is trained by the blocks behind it
        for block in sorted(chosen, key=lambda block: 'my_distilled.py' in block.text):
            if block.language == 'bash' and runs(block):
                done += [' '.join(command.words) for command in commands(block.text) if _run(command)]
    return done


def run_notebook() -> list[list[dict[str, Any]]]:
    """Run the cells of the tutorial in the working folder, their trainings shortened; returns their outputs."""

    def shell(line: str) -> str:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            for command in commands(line):
                assert _run(command), line
        return '' if '>' in line else printed.getvalue()

    with _short(narrowed=False):
        return execute(read_notebook()['cells'], shell)


def _run(command: Command) -> bool:
    program, *words = command.words
    if program == 'mim':
        program, words = 'mmdistill', [words[0], *words[2:]]
    if program != 'mmdistill':
        assert program in ('export', 'mkdir', 'cd', 'make', '.'), program
        return False
    if '--iters' in words:  # other processes train
        words[words.index('--iters') + 1] = '12'
    path = [command.variables['PYTHONPATH'], *sys.path] if 'PYTHONPATH' in command.variables else sys.path
    with mock.patch.object(sys, 'argv', ['mmdistill', *words]), mock.patch.object(sys, 'path', path):
        assert not main(words), ' '.join(command.words)
    return True


@contextmanager
def _short(narrowed: bool) -> Iterator[None]:
    build, train = Runner.from_cfg, Runner.train
    ends: dict[str, str] = {}

    def from_cfg(cfg: Config) -> Runner:
        ends[str(Path(cfg.work_dir).absolute())] = _shorten(cfg, narrowed)
        return build(cfg)

    def whole(self: Runner) -> Any:
        model = train(self)
        last = Path(self.work_dir, 'last_checkpoint').read_text(encoding='utf-8').strip()
        if Path(last).name != ends[self.work_dir]:  # later commands name the file of a whole run
            shutil.copy(last, Path(self.work_dir, ends[self.work_dir]))
        return model

    with mock.patch.object(Runner, 'from_cfg', from_cfg), mock.patch.object(Runner, 'train', whole):
        yield


def _shorten(cfg: Config, narrowed: bool) -> str:
    """Shorten a run; returns the name of the last checkpoint that the whole run would have written."""
    loop, epochs = cfg.train_cfg, 'max_epochs' in cfg.train_cfg
    name = f'epoch_{loop.max_epochs}.pth' if epochs else f'iter_{loop.max_iters}.pth'
    length = 1 if epochs else STEPS
    loop.update({'max_epochs': length} if epochs else {'max_iters': length}, val_interval=length)
    cfg.default_hooks.checkpoint.update(interval=length, save_best=None)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.update(num_workers=0, persistent_workers=False, batch_size=2)
        if 'num_images' in loader.dataset:
            loader.dataset.num_images = 2 * STEPS
        for step in loader.dataset.get('pipeline', []) if narrowed else []:
            step.update({key: (SIDE, SIDE) for key in ('scale', 'crop_size') if key in step})
    for distiller in (cfg.model.get('distillers') or {}).values():
        if 'learn' in distiller:
            distiller.learn.max_iters = STEPS
    if narrowed:
        with DefaultScope.overwrite_default_scope(cfg.default_scope):
            cfg.model = _narrowed(cfg.model)
    cfg.experiment_name = cfg.visualizer.name = toys.fresh_dir().name
    return name


def _narrowed(model: Any) -> ConfigDict:
    def network(option: Any, key: str) -> dict[str, Any]:
        made = narrow(load_model(option, key))
        made['data_preprocessor']['size'] = (SIDE, SIDE)
        return made

    if not is_distill_model(model):
        return ConfigDict(network(model, 'model'))
    options = {'type': model.type, 'student': network(student_option(model), 'model.student')}
    if model.get('teacher') and model.get('distillers'):
        network_part, teacher_part = (
            {key: value for key, value in model.teacher.items() if (key in TEACHER_OPTIONS) == flag}
            for flag in (False, True)
        )
        options['teacher'] = {**network(network_part, 'model.teacher'), **teacher_part}
    return ConfigDict(options, distillers=model.get('distillers') or {})


NOTEBOOK = ROOT / 'docs/tutorial.ipynb'
Output = dict[str, Any]
_LEFT_OUT = re.compile(r'^Could not import OneDL|^\d+ of \d+ done, |  (starting|preparing|testing) +$|  \d+/\d+  ')


def read_notebook() -> dict[str, Any]:
    """The notebook as it is stored."""
    return json.loads(NOTEBOOK.read_text(encoding='utf-8'))


def execute(cells: list[dict[str, Any]], shell: Callable[[str], str]) -> list[list[Output]]:
    """Run the code cells in the working folder; returns their outputs. ``shell`` runs a line that begins with ``!``."""
    names: dict[str, Any] = {}
    return [_cell(''.join(cell['source']), names, shell) for cell in cells if cell['cell_type'] == 'code']


def _printed(text: str) -> list[Output]:
    lines = [line for line in text.splitlines(keepends=True) if not _LEFT_OUT.search(line)]
    return [dict(name='stdout', output_type='stream', text=lines)] if lines else []


def _cell(source: str, names: dict[str, Any], shell: Callable[[str], str]) -> list[Output]:
    if source.startswith('%%writefile '):
        first, _, text = source.partition('\n')
        file = first.split()[1]
        Path(file).write_text(f'{text}\n', encoding='utf-8')
        return _printed(f'Writing {file}\n')
    if source.startswith('!'):
        lines = [re.sub(r'{(\w+)}', lambda name: str(names[name[1]]), line[1:]) for line in source.splitlines()]
        return _printed(''.join(shell(line) for line in lines))
    body, last = ast.parse(source).body, None
    if isinstance(body[-1], ast.Expr):
        last = ast.Expression(body.pop().value)  # type: ignore[attr-defined]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(ast.Module(body, []), '<cell>', 'exec'), names)
        shown = eval(compile(last, '<cell>', 'eval'), names) if last else None
    outputs = _printed(printed.getvalue())
    if shown is not None:
        data: dict[str, Any] = {'text/plain': [re.sub(' at 0x[0-9A-F]+', '', repr(shown))]}
        if hasattr(shown, '_repr_png_'):
            data['image/png'] = base64.b64encode(shown._repr_png_()).decode('ascii')
        outputs.append(dict(data=data, execution_count=None, metadata={}, output_type='execute_result'))
    return outputs


def _in_a_shell(line: str) -> str:
    print(f'$ {line}', flush=True)
    environment = {**os.environ, 'PATH': f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}'}
    return subprocess.run(line, shell=True, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout


def store_notebook(folder: str) -> None:
    """Run the notebook as a reader would, in an empty folder, and store its outputs."""
    stored = read_notebook()
    Path(folder).mkdir(parents=True)
    os.chdir(folder)
    code = [cell for cell in stored['cells'] if cell['cell_type'] == 'code']
    for number, (cell, outputs) in enumerate(zip(code, execute(code, _in_a_shell), strict=True), 1):
        cell.update(outputs=outputs, execution_count=number)
        for output in outputs:
            if 'execution_count' in output:
                output['execution_count'] = number
    text = json.dumps(stored, indent=1, ensure_ascii=False) + '\n'
    short = text.replace(f'{Path.cwd()}/', '').replace(str(ROOT), 'mmdistill_dense')
    NOTEBOOK.write_text(short, encoding='utf-8')


if __name__ == '__main__':
    store_notebook(sys.argv[1])
