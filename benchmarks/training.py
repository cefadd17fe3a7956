"""How much of a training step is not model arithmetic: forward, backward and optimizer.

    python benchmarks/training.py [steps]

Trains with the defaults of `turnwise train` and times every forward of the model (while sampling and while training),
every backward and every optimizer step from inside; the rest of the step is ours: environments, tokens, sampling,
credit, batches, files. Both are parts of one run, so the share does not depend on the machine. Target: at most 25 %.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import Counter
from typing import Any

import torch

from turnwise.configs.schema import TrainConfig
from turnwise.trainers.local import train as trainer

spent: Counter[str] = Counter()


def timed(name: str, function: Any) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            spent[name] += time.perf_counter() - began  # type: ignore[assignment]

    return call


def main() -> None:
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    load = trainer.models.load

    def load_timed(*args: Any, **kwargs: Any) -> Any:
        model, tokenizer = load(*args, **kwargs)
        model.forward = timed("forward", model.forward)
        return model, tokenizer

    trainer.models.load = load_timed
    torch.Tensor.backward = timed("backward", torch.Tensor.backward)
    torch.optim.AdamW.step = timed("optimizer", torch.optim.AdamW.step)
    update = trainer.update

    def first_step_starts_the_clock(*args: Any, **kwargs: Any) -> Any:
        metrics = update(*args, **kwargs)
        marks.append((time.perf_counter(), sum(spent.values())))
        return metrics

    marks: list[tuple[float, float]] = []
    trainer.update = first_step_starts_the_clock
    with tempfile.TemporaryDirectory() as folder:
        config = TrainConfig.model_validate(
            {
                "run": f"{folder}/run",
                "trainer": {"steps": steps, "eval_every": 0, "eval_episodes": 8, "loggers": []},
            }
        )
        trainer.train(config, say=lambda _: None)
    (began, before), (ended, after) = marks[0], marks[-1]
    step, model = (ended - began) / (steps - 1), (after - before) / (steps - 1)
    print(
        f"{steps - 1} steps of {config.trainer.tasks_per_step * config.trainer.group_size} episodes: {step:.3f} s a step"
    )
    print(f"model arithmetic {model:.3f} s a step, everything else {step - model:.3f} s")
    print(f"share that is not model arithmetic: {1 - model / step:.1%} (target: at most 25 %)")


if __name__ == "__main__":
    main()
