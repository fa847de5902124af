"""``suite.py table``: Markdown, CSV and a picture of the results so far."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmdistill_dense.apps.suite import equal_compute
from mmdistill_dense.apps.suite.definition import Definition
from mmdistill_dense.apps.suite.plan import CONTROL, TEACHER
from mmdistill_dense.apps.suite.plot import gains_png
from mmdistill_dense.apps.suite.rows import Row, Table, collect
from mmdistill_dense.apps.suite.table import as_markdown
from mmdistill_dense.utils.atomic import write_text, write_whole


def main(definition: Definition, out: Path | None = None) -> None:
    """Write ``table.md``, ``table.csv``, ``scores.csv`` and ``gains.png``, and print the Markdown."""
    table, folder = collect(definition), out or definition.out
    text = as_markdown(table)
    write_text(folder / 'table.md', text)
    write_text(folder / 'table.csv', as_csv(table))
    write_text(folder / 'scores.csv', scores_as_csv(table))
    write_whole(folder / 'gains.png', gains_png(table))
    print(text)
    print(f'Written: {folder}/table.md, table.csv, scores.csv, gains.png')


def as_csv(table: Table) -> str:
    """Return a line per row, with every digit: scores and gains in percent, memory in bytes."""
    return _csv([_cells(table, row, table.row(CONTROL).cost) for row in table.rows])


def scores_as_csv(table: Table) -> str:
    """Return a line per run, without times, so that an interrupted suite gives the same bytes."""
    own, lines = table.row(CONTROL).scores, []
    for row in table.rows:
        for seed, result in sorted(row.results.items()):
            paired = row.name not in (TEACHER, CONTROL) and seed in own
            line = {'name': row.name, 'seed': seed, 'score': result['score']}
            line |= {'gain': result['score'] - own[seed] if paired else None, 'iterations': result['iterations']}
            line['config_hash'] = result['config_hash']
            for split in ('test', 'val'):
                line |= {f'{split}/{key}': value for key, value in result['metrics'].get(split, {}).items()}
            lines.append(line)
    return _csv(lines)


def _cells(table: Table, row: Row, deployed: Mapping[str, Any]) -> dict[str, Any]:
    definition = table.definition
    method = definition.methods.get(row.name)
    size = deployed.get('teacher' if row.name == TEACHER else 'student') or {}
    first = row.targets[0] if row.targets else None
    memory = row.cost.get('memory', {}) if row.name != CONTROL else {}
    spent = equal_compute.used(table, row) if definition.budget and row.name != TEACHER else None
    compute = {'iterations': spent.iterations, 'passes': spent.passes, 'compute': spent.compute} if spent else {}
    return {
        'name': row.name,
        'method': method and method.method,
        'variant': method and method.variant,
        'metric': definition.metric,
        'n': len(row.results),
        'planned': 1 if row.name == TEACHER else len(definition.seeds),
        'mean': row.summary and row.summary.mean,
        'sd': row.summary and row.summary.sd,
        'pairs': row.gain and row.gain.n,
        'gain': row.gain and row.gain.mean,
        'gain_sd': row.gain and row.gain.sd,
        'gain_low': row.gain and row.gain.low,
        'gain_high': row.gain and row.gain.high,
        'gain_p': row.gain and row.gain.p,
        'parameters': size.get('parameters'),
        'gflops': size.get('gflops'),
        'seconds_per_iteration': row.seconds_per_iteration,
        'loss_share': row.share,
        'step_ratio': row.cost.get('ratio'),
        'extra_memory': memory.get('extra'),
        'adapter_parameters': row.cost.get('adapter_parameters'),
        **compute,
        'published_student': first and first.student,
        'published': first and first.value,
        'published_gain': first and first.gain,
        'published_source': first and first.source,
        'config_hash': ' '.join(row.hashes),
    }


def _csv(lines: list[dict[str, Any]]) -> str:
    names = list(dict.fromkeys(name for line in lines for name in line))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator='\n')
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()
