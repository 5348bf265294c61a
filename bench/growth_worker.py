"""Time the training on many pairs with the tiny model: `python bench/growth_worker.py --world DIR --pairs N`."""

import argparse
import json
import time
from pathlib import Path

import torch

from llava_shape import TINY, build_items
from train_worker import Job, Start, ours


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--world", type=Path, required=True)
    parser.add_argument("--pairs", type=int, required=True)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    items = build_items(given.world / "images", TINY, given.pairs, words=(8, 24))
    train = ours(Job(given.world, items, epochs=1, prompts_per_step=32), Start())
    began = time.perf_counter()
    train()
    print(json.dumps({"pairs": given.pairs, "seconds": time.perf_counter() - began}))


if __name__ == "__main__":
    main()
