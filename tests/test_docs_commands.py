"""Every command of the guides is understood by the program that it calls; what no test runs says what it needs."""

import pytest

from tests.docs_blocks import Block, blocks, commands, inline, summary
from tests.docs_check import check
from tests.docs_run import runs


@pytest.mark.parametrize('block', [pytest.param(block, id=block.key) for block in blocks('bash')])
def test_a_block_is_understood_and_is_run_or_says_what_it_needs(block: Block) -> None:
    found = commands(block.text)
    assert found
    for command in found:
        check(command, block)
    assert runs(block) or block.needs or block.form, (
        f'{block.key}: no test runs this block, so a comment in it must say what it needs (`# needs GPUs`), or '
        'tests/docs_run.py must run its guide.'
    )


@pytest.mark.parametrize('guide', sorted({block.guide for block in inline()}, key=str), ids=lambda path: path.stem)
def test_options_and_files_of_commands_in_sentences(guide: object) -> None:
    for block in inline():
        if block.guide == guide:
            for command in commands(block.text):
                check(command, block)


def test_a_wrong_option_is_seen() -> None:
    block = blocks('bash')[0]
    for line in (
        'python tools/train.py CONFIG --work-dirs x',
        'mim train mmseg CONFIG --no-such-option',
        'make no-demo',
    ):
        (command,) = commands(line)
        with pytest.raises((AssertionError, SystemExit)):
            check(command, block)


def test_the_count_names_every_kind() -> None:
    assert all(word in summary() for word in ('python', 'yaml', 'bash', 'inline', 'needs'))
