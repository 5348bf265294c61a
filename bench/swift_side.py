"""ms-swift's side of a timed training; runs in a separate environment (`make bench-peers`)."""

import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from llava_shape import PROJECTIONS, Item


def swift(  # noqa: PLR0917
    world: Path,
    items: Sequence[Item],
    epochs: int,
    per_pass: int,
    accumulation: int,
    rate: float,
    lora: dict[str, int],
) -> Callable[[], object]:
    """Prepare `swift rlhf --rlhf_type dpo` and return a function that trains."""
    from swift import rlhf_main
    from swift.pipelines.train.rlhf import SwiftRLHF

    out = Path(tempfile.mkdtemp(prefix="swift-bench-"))
    data = write_pairs(out / "pairs.jsonl", world, items)
    options = {
        "rlhf_type": "dpo",
        "model": world / "model",
        "model_type": "llava1_5_hf",
        "dataset": data,
        "output_dir": out / "out",
        "torch_dtype": "float32",
        "tuner_type": "lora",
        **lora,
        "target_regex": PROJECTIONS,
        "per_device_train_batch_size": per_pass,
        "gradient_accumulation_steps": accumulation,
        "num_train_epochs": epochs,
        "learning_rate": rate,
        "gradient_checkpointing": "false",
        "use_logits_to_keep": "true",
        "split_dataset_ratio": 0,
        "dataloader_num_workers": 0,
        "save_strategy": "no",
        "report_to": "none",
        "logging_steps": 10**6,
        "bf16": "false",
        "fp16": "false",
        "load_from_cache_file": "false",
    }
    prepared: list[Callable[[], object]] = []

    def keep(self: object, trainer: object) -> dict[str, object]:
        prepared.append(trainer.train)  # type: ignore[attr-defined]
        return {}

    SwiftRLHF.train = keep  # receives the trainer instead of running it
    rlhf_main([part for name, value in options.items() for part in (f"--{name}", str(value))])
    return prepared[0]


def write_pairs(path: Path, world: Path, items: Sequence[Item]) -> Path:
    """Write the pairs in ms-swift's format, one record per rejected completion."""
    records = [
        {
            "messages": [
                {"role": "user", "content": f"<image>{item.question}"},
                {"role": "assistant", "content": item.chosen},
            ],
            "rejected_response": rejected,
            "images": [str(world / "images" / item.image)],
        }
        for item in items
        for rejected in item.rejected
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path
