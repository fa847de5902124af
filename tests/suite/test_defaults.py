"""The question whether a default beats the better control: what is chosen on val, what is read on test, and chance."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from scipy import stats

from benchmarks import defaults

ROOT = Path(__file__).resolve().parents[2]


def test_rows_are_chosen_on_val_and_the_gain_is_read_on_test() -> None:
    first, second = {1: (50.0, 40.0), 2: (52.0, 41.0)}, {1: (53.0, 39.0), 2: (52.0, 42.0)}
    taught, worse = {2: (56.0, 45.0), 1: (55.0, 40.0)}, {1: (54.0, 60.0), 2: (54.0, 60.0)}
    gain = defaults.gain_of([first, second], [worse, taught])
    assert gain is not None and gain.each == {1: 1.0, 2: 3.0} and gain.mean == 2


def test_the_interval_of_the_mean_is_student_s_over_pairs() -> None:
    gains = [1.0, 2.5, -0.5, 3.0, 0.25, 1.75]
    found = defaults.mean_of(gains)
    low, high = stats.t.interval(0.95, 5, np.mean(gains), stats.sem(gains))
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    table = defaults.as_markdown(
        {f'pair {number}': defaults.mean_of([one, one + 1]) for number, one in enumerate(gains)}
    )
    assert f'| **mean of 6 pairs** | | +1.83 [{low + 0.5:+.2f}, {high + 0.5:+.2f}] |' in table


def test_chance_alone_says_yes_in_no_more_than_one_of_twenty() -> None:
    files = [ROOT / 'docs/results' / f'{name}.csv' for name in ('camvid', 'camvid_1of8')]
    said = re.fullmatch(
        r'400 times 6 pairs of 3 seeds .*: yes (.*)%, no (.*)%; mean gain (.*), interval ± (.*)',
        defaults.told_of_chance(files, 6, 3, 400),
    )
    assert said is not None
    yes, no, mean, width = map(float, said.groups())
    assert 0 < yes <= 5 and 0 < no <= 5 and abs(mean) < 0.1 and 0.3 < width < 2


@pytest.mark.soak
def test_the_page_tells_what_its_commands_print(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    page = Path('docs/results.md').read_text(encoding='utf-8')
    commands = re.findall(r'^python benchmarks/defaults.py (null .*)$', page, re.MULTILINE)
    for command in commands:
        defaults.main(command.split())
    shares = re.findall(r'yes (.*?%)', capsys.readouterr().out)
    assert len(shares) == 2 and re.findall(r'in (\S+) % \(segmentation\) and (\S+) % \(detection\)', page) == [
        tuple(share.removesuffix('%') for share in shares)
    ]


def test_a_project_of_each_pair_has_further_rates_and_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []

    def new(words: list[str]) -> int:
        seen.append(words)
        folder = Path(words[words.index('--out') + 1])
        folder.mkdir(parents=True)
        rows = {'control_x2': {'rate': 2}, 'pcd': {'config': 'pcd.py'}}
        (folder / 'suite.yaml').write_text(yaml.safe_dump({'out': './work', 'methods': rows, 'seeds': [0]}))
        return 0

    monkeypatch.setattr(defaults, 'command', new)
    monkeypatch.setenv('MMDISTILL_DATA', '/data')
    defaults.main(['projects', str(ROOT / 'benchmarks/pairs/defaults_seg.yaml'), str(tmp_path / 'out')])
    names = [Path(words[words.index('--out') + 1]).name for words in seen]
    assert len(names) == len(set(names)) >= 6 and all(words[0] == 'new' for words in seen)
    assert '/data/camvid' in seen[0] and seen[0][seen[0].index('--size') + 1 :][:2] == ['180', '240']
    suite: dict[str, Any] = yaml.safe_load((tmp_path / 'out' / names[0] / 'suite.yaml').read_text())
    assert suite['seeds'] == [31, 32, 33] and suite['methods'] == {
        'control_x2': {'rate': 2},
        'pcd': {'config': 'pcd.py'},
        'pcd_x2': {'config': 'pcd.py', 'rate': 2},
        'control_x4': {'rate': 4},
        'pcd_x4': {'config': 'pcd.py', 'rate': 4},
    }
