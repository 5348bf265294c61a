"""Trains a step of DPO with ms-swift and LLaMA-Factory, by their own command lines, on what `convert` writes for them.

`make peers` gives each an environment of its own. A tiny random LLaVA learns from five pairs, one with two rejected
completions, one about two images; shown is what each tool says: rows, the first loss (log 2) and log-probabilities. The
same pairs on black images must give others: the images enter.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

import families

ROWS = 6
"""Five pairs, one of them with two rejected completions."""
LOG_2 = 0.6931


@dataclass(frozen=True, slots=True)
class Seen:
    """What a tool said of one step: rows, loss, log-probabilities of the chosen completions."""

    rows: int
    loss: float
    chosen: float


def pairs(folder: Path, black: bool) -> Path:
    """Five pairs as a user has them: JSON Lines beside a folder of images."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    rows = []
    for number in range(5):
        names = [f"images/{number}.png", f"images/{number}b.png"][: 2 if number == 3 else 1]
        for name in names:
            pixels = rng.integers(0, 255, (28, 28, 3), dtype=np.uint8)
            Image.fromarray(pixels * (not black)).save(folder / name)
        marks = "<image>" * len(names)
        turns = [{"from": "human", "value": f"{marks}\nWhat is {number}?"}]
        if number == 2:
            turns += [{"from": "gpt", "value": "A dot."}, {"from": "human", "value": "Which\ncolour?"}]
        for rejected in ["A blue cat sits.", "Nothing."][: 2 if number == 4 else 1]:
            row = {"id": f"p{number}", "conversations": turns, "images": names}
            row |= {"chosen": {"from": "gpt", "value": "A red dot.\nIt is round."}}
            rows.append(row | {"rejected": {"from": "gpt", "value": rejected}})
    file = folder / "given.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def converted(given: Path, to: str, out: Path) -> Path:
    """The pairs as `convert` writes them for a tool."""
    words = [sys.executable, "-m", "pairsight", "convert", str(given), str(out), "--to", to]
    subprocess.run(words, check=True)
    return out


def run(words: list[str], folder: Path, **more: str) -> str:
    """What a command says; an error shows the end of it."""
    own = {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "HF_HOME": str(folder / "hf")}
    done = subprocess.run(
        words, check=False, capture_output=True, text=True, cwd=folder, env={**os.environ, **own, **more}
    )
    said = done.stdout + done.stderr
    if done.returncode:
        raise SystemExit(f"{' '.join(words[:3])} ended with {done.returncode}:\n{said[-4000:]}")
    return said


def swift(command: Path, model: Path, data: Path, out: Path) -> Seen:
    """A step of `swift rlhf --rlhf_type dpo`."""
    options = {
        "rlhf_type": "dpo", "model": model, "model_type": "llava1_5_hf", "dataset": data / "pairs.jsonl",
        "output_dir": out, "add_version": "false", "torch_dtype": "float32", "tuner_type": "lora", "lora_rank": 4,
        "max_steps": 1, "per_device_train_batch_size": ROWS, "gradient_accumulation_steps": 1, "strict": "true",
        "split_dataset_ratio": 0, "dataloader_num_workers": 0, "dataset_num_proc": 1, "save_strategy": "no",
        "report_to": "none", "logging_steps": 1, "bf16": "false", "fp16": "false", "load_from_cache_file": "false",
        "gradient_checkpointing": "false",
    }  # fmt: skip
    words = [str(command), "rlhf", *(str(part) for name, value in options.items() for part in (f"--{name}", value))]
    path = f"{command.parent}{os.pathsep}{os.environ['PATH']}"
    said = run(words, out.parent, ROOT_IMAGE_DIR=str(data), PATH=path)
    rows = re.search(r"train_dataset: Dataset\(\{.*?num_rows: (\d+)", said, re.DOTALL)
    logged = json.loads((out / "logging.jsonl").read_text(encoding="utf-8").splitlines()[0])
    return Seen(int(rows[1]) if rows else 0, float(logged["loss"]), float(logged["logps/chosen"]))


def llama_factory(command: Path, model: Path, data: Path, out: Path) -> Seen:
    """A step of `llamafactory-cli train` with `stage: dpo`."""
    config = {
        "model_name_or_path": str(model), "stage": "dpo", "do_train": True, "finetuning_type": "lora", "lora_rank": 4,
        "lora_target": "q_proj,v_proj", "dataset_dir": str(data), "dataset": "pairs", "template": "llava",
        "cutoff_len": 1024, "overwrite_cache": True, "preprocessing_num_workers": 1, "dataloader_num_workers": 0,
        "output_dir": str(out), "logging_steps": 1, "save_strategy": "no", "report_to": "none",
        "per_device_train_batch_size": ROWS, "gradient_accumulation_steps": 1, "learning_rate": 1e-4, "max_steps": 1,
        "bf16": False, "fp16": False, "use_cpu": True,
    }  # fmt: skip
    file = out.with_suffix(".yaml")
    file.write_text(json.dumps(config), encoding="utf-8")
    said = run([str(command), "train", str(file)], out.parent)
    rows = re.search(r"Num examples = ([\d,]+)", said)
    state = json.loads((out / "trainer_state.json").read_text(encoding="utf-8"))
    logged = state["log_history"][0]
    return Seen(int(rows[1].replace(",", "")) if rows else 0, float(logged["loss"]), float(logged["logps/chosen"]))


PEERS: dict[str, tuple[str, Callable[[Path, Path, Path, Path], Seen]]] = {
    "ms-swift": ("swift", swift),
    "llama-factory": ("llamafactory-cli", llama_factory),
}


def main() -> int:
    """Print what each tool says; the exit status is 1 where one does not say what it must."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, (command, _) in PEERS.items():
        parser.add_argument(f"--{name}", type=Path, metavar="FOLDER", help=f"an environment that has {command}")
    given = vars(parser.parse_args())
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="peers-") as name:
        folder = Path(name)
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
        model = families.build("llava", folder / "model")
        files = {what: pairs(folder / what, black=what == "black") for what in ("coloured", "black")}
        for peer, (command, train) in PEERS.items():
            environment = given[peer.replace("-", "_")]
            if environment is None:
                continue
            seen = {}
            for what, file in files.items():
                data = converted(file, peer, folder / f"{peer}-{what}")
                seen[what] = train(environment.resolve() / "bin" / command, model, data, folder / f"{peer}-{what}-out")
                print(f"{peer}, {what} images: {seen[what]}", flush=True)
            good = all(one.rows == ROWS and abs(one.loss - LOG_2) < 1e-3 for one in seen.values())
            enter = abs(seen["coloured"].chosen - seen["black"].chosen) > 1e-3
            print(f"{peer}: {'reads every row' if good else 'WRONG rows or loss'}; "
                  f"{'the images enter' if enter else 'THE IMAGES DO NOT ENTER'}", flush=True)  # fmt: skip
            wrong += not (good and enter)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
