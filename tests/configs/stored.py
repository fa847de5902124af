"""The values of every config, as tests/data/configs.txt holds them; ``python -m tests.configs.stored`` writes the file.

When they were first written, they were compared with the papers, the authors' released code and the zoos' own configs.
A difference is a change of what users train: the commit that means it writes the file anew and says why. What is new
needs no line, and gets one when the file is next written.
"""

import hashlib
import json
import os
from pathlib import Path
from unittest import mock

from mmengine.config import Config

from mmdistill_dense.apps.recipes.compose import option_files, parts_of, recipes
from tests.every_config import CONFIGS, CONTROLS, FILES, name_of, named

FILE = Path(__file__).parents[1] / 'data/configs.txt'
ROOT = '/a folder of data'  # every path of a data set begins with it
Listing = dict[str, str]


def listing() -> Listing:
    """Return lines by their first words: configs with digests of their values, what options fit, and the values."""
    lines, values = Listing(), Listing()
    with mock.patch.dict(os.environ, MMDISTILL_DATA=ROOT, MMDISTILL_WEIGHTS='weights'):
        typed = [path for path in (*FILES, *CONTROLS) if path not in named()]
        for path in sorted({*typed, *option_files(), *CONFIGS.glob('_base_/*/*.py')}):
            config = Config.fromfile(path).to_dict()
            if path.parent.name == 'models':  # perhaps a whole config of the zoo, of which nothing reads the rest
                config = {'model': config['model']}
            texts = {key: json.dumps(value, sort_keys=True, default=str) for key, value in sorted(config.items())}
            words = [f'{key}={hashlib.sha256(text.encode()).hexdigest()[:8]}' for key, text in texts.items()]
            values |= zip(words, texts.values(), strict=True)
            lines[name_of(path)] = ' '.join(words)
    for path in (*recipes(), *recipes(pretraining=True)):
        lines[f'parts of {path.stem}'] = ' '.join(map(str, parts_of(path)))
    fits: dict[str, list[str]] = {}
    for config in named().values():
        fits.setdefault(f'fits {config.method} {config.options.stem}', []).append(f'{config.pair}={config.base.stem}')
    return lines | {options: ' '.join(sorted(pairs)) for options, pairs in fits.items()} | values


def differences() -> list[str]:
    """Return the configs whose values, and the options whose pairs, are other ones; pairs that are new do not count."""
    pairs = (line.partition(': ') for line in FILE.read_text(encoding='utf-8').splitlines())
    stored, today = {head: text for head, _, text in pairs}, listing()
    known_pairs = {pair for head, text in stored.items() if head.startswith('fits ') for pair in text.split()}
    actual = []
    for head, text in stored.items():
        before, after = {*text.split()}, {*today.get(head, '').split()}
        if '=' in head or before == (after & known_pairs if head.startswith('fits ') else after):
            continue
        actual += [f'{head}: stored {word} {stored.get(word, "")}' for word in sorted(before - after)]
        actual += [f'{head}: today {word} {today.get(word, "")}' for word in sorted(after - before)]
    return actual


if __name__ == '__main__':
    FILE.write_text(''.join(f'{head}: {text}\n' for head, text in listing().items()), encoding='utf-8')
