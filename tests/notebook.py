"""Runs docs/tutorial.ipynb without Jupyter. ``python -m tests.notebook FOLDER`` stores the outputs of a whole run.

It leaves out what mmseg prints about parts that are not installed, the progress of trainings, and the reader's folder
in paths.
"""

import ast
import base64
import contextlib
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.docs_blocks import ROOT

NOTEBOOK = ROOT / 'docs/tutorial.ipynb'
Output = dict[str, Any]
_LEFT_OUT = re.compile(r'^Could not import OneDL|^\d+ of \d+ done, |  (starting|preparing|testing) +$|  \d+/\d+  ')


def read() -> dict[str, Any]:
    """The notebook as it is stored."""
    return json.loads(NOTEBOOK.read_text(encoding='utf-8'))


def execute(cells: list[dict[str, Any]], shell: Callable[[str], str]) -> list[list[Output]]:
    """Run the code cells in the working folder; returns their outputs. ``shell`` runs a line that begins with ``!``."""
    names: dict[str, Any] = {}
    return [_run(''.join(cell['source']), names, shell) for cell in cells if cell['cell_type'] == 'code']


def _printed(text: str) -> list[Output]:
    lines = [line for line in text.splitlines(keepends=True) if not _LEFT_OUT.search(line)]
    return [dict(name='stdout', output_type='stream', text=lines)] if lines else []


def _run(source: str, names: dict[str, Any], shell: Callable[[str], str]) -> list[Output]:
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


def main(folder: str) -> None:
    """Run the notebook as a reader would, in an empty folder, and store its outputs."""
    stored = read()
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
    main(sys.argv[1])
