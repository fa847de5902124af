"""The scores of a student and of its exported graphs, by the evaluation of its own config."""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.runner import Runner
from torch import Tensor

from mmdistill_dense.apps.export.graphs import graph_of, open_graph, read_description
from mmdistill_dense.apps.export.write_student import load_student
from mmdistill_dense.utils.reproducible import without_workers


def evaluate(
    config: Config, checkpoint: str | Path, graph: str | Path | None = None
) -> tuple[dict[str, float], float | None]:
    """Evaluate a student on the validation data of its config, on the CPU.

    Preprocessing, sliding windows, decoding and suppression are the network's; a graph does what it holds.
    """
    plain, network, _, _ = load_student(config, checkpoint)
    network.eval()
    spent: list[float] = []
    data = without_workers(plain.val_dataloader)
    if graph is not None:
        run, told = open_graph(graph), read_description(graph)
        if told['input']['shape'][0] == 1:  # takes no batch
            data['batch_size'] = 1

        def timed(image: Tensor) -> list[Tensor]:
            start = time.perf_counter()
            found = run(image)
            spent.append(1000 * (time.perf_counter() - start))
            return found

        graph_of(network).answer_by(timed, list(told['outputs']))
    loader = Runner.build_dataloader(data)
    evaluator = Evaluator(plain.val_evaluator)
    evaluator.dataset_meta = getattr(loader.dataset, 'metainfo', None)
    test_step: Any = network.test_step
    with torch.no_grad():
        for batch in loader:
            evaluator.process(data_samples=test_step(batch), data_batch=batch)
    return evaluator.evaluate(len(loader.dataset)), median(spent) if spent else None
