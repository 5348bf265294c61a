"""Operations per second of a plain fp32 matrix product on this machine: `python bench/matrix_rate.py` prints JSON.

The best of many products shows the machine's peak rate; the median shows how stable the rate was.
"""

import argparse
import json
import statistics
import time

import torch

SIZE = 2048
REPEATS = 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    rates = product_rates()
    print(json.dumps({"best_flops_per_s": max(rates), "median_flops_per_s": statistics.median(rates)}))


def product_rates(
    dtype: torch.dtype = torch.float32, size: int = SIZE, repeats: int = REPEATS, device: str = "cpu"
) -> list[float]:
    """The rates of many products of random matrices, after three for warm-up."""
    a, b = (torch.randn(size, size, dtype=dtype, device=device) for _ in range(2))
    wait = torch.cuda.synchronize if device == "cuda" else (lambda: None)
    seconds = []
    for _ in range(repeats + 3):
        wait()
        began = time.perf_counter()
        a @ b
        wait()
        seconds.append(time.perf_counter() - began)
    return [2 * size**3 / taken for taken in seconds[3:]]


if __name__ == "__main__":
    main()
