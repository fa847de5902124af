"""Memory of a work against a count made another way."""

import torch

from tools.benchmark.timing import peak_extra_memory

MIB = 2**20


def test_peak_counts_what_is_held_at_once(capfd) -> None:
    def work() -> None:
        first = torch.zeros(MIB, dtype=torch.uint8)
        del first
        torch.zeros(2 * MIB, dtype=torch.uint8).sum()  # converted to int64 inside the operation

    assert 18 * MIB <= peak_extra_memory(work) < 18.1 * MIB
    assert not capfd.readouterr().err, 'some versions of torch report the start of their profiler there'
