"""The command line measures what it is told; the page shows every section of a folder."""

import json
import re
import shlex
from pathlib import Path

import pytest
from mmengine.config import Config

from tests import toys
from tests.engine.processes import ROOT
from tools.benchmark import command as benchmark
from tools.benchmark import page, teacher_pass
from tools.benchmark.section import Section

SMALL = 'mmseg::fcn/fcn_r18-d8_4xb2-80k_cityscapes-512x1024.py'


def a_section(name: str) -> Section:
    return Section(name, f'About {name}', f'table of {name}', [1.5], 'a machine', f'python tools/benchmark.py {name}')


def test_the_page_shows_the_sections_in_order(tmp_path: Path) -> None:
    for name in ('losses', 'teacher_r101', 'step_seg'):
        a_section(name).save(tmp_path / 'figures')
    text = page.write_page(tmp_path / 'figures', tmp_path / 'docs' / 'performance.md').read_text()
    names = ('step_seg', 'teacher_r101', 'losses')
    places = [text.index(f'## About {name}\n\ntable of {name}') for name in names]
    assert places == sorted(places)
    assert text.endswith('a machine. `python tools/benchmark.py losses`\n')


def test_the_page_of_the_project_is_one_that_is_written() -> None:
    text = (ROOT / 'docs' / 'performance.md').read_text(encoding='utf-8')
    assert text.startswith(page.INTRODUCTION)
    places = [page.ORDER.index(line.split()[1].lower()) for line in text.splitlines() if line.startswith('## ')]
    assert places == sorted(places) and set(places) == {0, 1, 2}


def test_an_empty_folder_and_another_file_are_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match='holds no JSON file'):
        page.write_page(tmp_path, tmp_path / 'page.md')
    (tmp_path / 'other.json').write_text('{}')
    with pytest.raises(ValueError, match='was not written by tools/benchmark.py'):
        page.write_page(tmp_path, tmp_path / 'page.md')


def test_the_command_of_a_section_leaves_out_where_it_is_kept() -> None:
    assert benchmark._again(['losses', '--json', 'a b', '--size', 'small']) == (
        'python tools/benchmark.py losses --size small'
    )


def test_every_line_of_the_plan_can_be_parsed() -> None:
    for name, line in page.PLAN.items():
        args = benchmark._parser().parse_args([*shlex.split(line), '--threads', '1', '--device', 'cpu', '--json', 'x'])
        assert args.what == name.split('_')[0]
        assert name.split('_')[0] in page.ORDER
        for method in (args.method or []) if args.what == 'step' else []:
            assert benchmark.composed(args.recipe, method).model.distillers


def test_an_unknown_part_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match='speed: not part of the benchmark, which is teacher_deeplabv3_r101, '):
        benchmark.main(['all', str(tmp_path), '--only', 'speed'])


def test_all_starts_a_process_for_each_part_and_names_what_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    tool = tmp_path / 'tool.py'
    tool.write_text('import sys; print(*sys.argv[1:], flush=True); sys.exit("bad" in sys.argv)')
    assert page.TOOL == ROOT / 'tools/benchmark.py'
    monkeypatch.setattr(page, 'TOOL', tool)
    monkeypatch.setattr(page, 'PLAN', {'step_bad': 'step --name bad', 'losses': "losses --name 'a b'"})
    with pytest.raises(SystemExit, match='^failed: step_bad$'):
        benchmark.main(['all', str(tmp_path), '--device', 'cpu', '--threads', '3'])
    said = capfd.readouterr().out
    options = f'--threads 3 --device cpu --json {tmp_path}\n'
    assert f'step --name bad {options}' in said and f'losses --name a b {options}' in said
    assert re.search(r'^step_bad: \d+ s$', said, re.MULTILINE) and re.search(r'^losses: \d+ s$', said, re.MULTILINE)


@pytest.mark.soak
def test_teacher_command_measures_a_network_of_the_zoo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmark.torch, 'set_num_threads', lambda threads: None)
    monkeypatch.setattr(teacher_pass, 'OPTIONS', {'bfloat16': {'dtype': 'bfloat16'}})
    words = [
        'teacher',
        '--cfg',
        SMALL,
        '--taps',
        'backbone[3]',
        '--size',
        '64',
        '64',
        '--repeats',
        '1',
        '--name',
        'small',
    ]
    benchmark.main([*words, '--device', 'cpu', '--json', str(tmp_path)])
    content = json.loads((tmp_path / 'teacher_small.json').read_text())
    assert content['command'] == f'python tools/benchmark.py {shlex.join([*words, "--device", "cpu"])}'
    assert f'## {content["title"]}' in capsys.readouterr().out


@pytest.mark.soak
def test_step_command_measures_several_methods(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher = toys.seg_teacher()  # beside a config of plain values, as a file cannot hold more
    config = Config({
        'model': toys.model_config(teacher=teacher, distillers={'kd': {'type': 'LogitKD'}}),
        'default_scope': 'mmseg',
        'train_dataloader': {'batch_size': 2},
        'optim_wrapper': {'type': 'OptimWrapper', 'optimizer': {'type': 'SGD', 'lr': 0.01}},
    })  # fmt: skip
    files = [tmp_path / name for name in ('one.py', 'two.py')]
    for file in files:
        with toys.unformatted():
            config.dump(str(file))
    monkeypatch.setattr(benchmark.torch, 'set_num_threads', lambda threads: None)
    options = ['--name', 'toy', '--repeats', '1', '--device', 'cpu', '--json', str(tmp_path / 'out')]
    benchmark.main(['step', '--config', *map(str, files), *options])
    figures = json.loads((tmp_path / 'out' / 'step_toy.json').read_text())['figures']
    assert list(figures) == ['one', 'two'] and figures['one']['overhead'] > 0
    out = capsys.readouterr().out
    assert 'one: ' in out and '| one |' in out and '| two |' in out
