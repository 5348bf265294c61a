"""Operations a second of a plain fp32 matrix product on this machine: `python bench/matrix_rate.py` prints JSON."""

import argparse
import json
import statistics
import time

import torch

SIZE = 2048
REPEATS = 15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    print(json.dumps({"flops_per_s": product_rate()}))


def product_rate() -> float:
    """The median of some products, after three that are not counted."""
    a, b = torch.randn(SIZE, SIZE), torch.randn(SIZE, SIZE)
    seconds = []
    for _ in range(REPEATS + 3):
        began = time.perf_counter()
        a @ b
        seconds.append(time.perf_counter() - began)
    return float(2 * SIZE**3 / statistics.median(seconds[3:]))


if __name__ == "__main__":
    main()
