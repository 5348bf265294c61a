"""The folder a training leaves: weights that plain `peft` or `transformers` load, and how they came about."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pairsight.config import read_yaml
from pairsight.errors import ModelError, RunError
from pairsight.store.durable import write_file
from pairsight.training.config import TrainingConfig

_FREE = {"save_steps", "save_total_limit", "logging_steps", "report_to"}
_PACKAGES = ("pairsight", "torch", "transformers", "peft", "accelerate")


@dataclass(frozen=True, slots=True)
class Origin:
    """What a training is made from: stored before it starts, compared when a folder is met again.

    Args:
        model: the base, as it was named.
        base_fingerprint: the base's identity.
        data_sha256: of all examples and their order.
        num_examples: given, before any are skipped.
        training: the config, as plain values.
    """

    model: str
    base_fingerprint: str
    data_sha256: str
    num_examples: int
    training: Mapping[str, Any]


def claim(folder: Path, origin: Origin) -> bool:
    """Make `folder` this training's own, or recognise it.

    Returns:
        Whether the training in it is finished.

    Raises:
        RunError: the folder holds another training, or something else.
    """
    import yaml

    file = folder / "align.yaml"
    if file.is_file():
        differences = _differences(read_yaml(file), asdict(origin))
        if differences:
            raise RunError(
                f"{folder} holds another training ({'; '.join(differences)}); choose another --name or --out, or the "
                "same options to go on with it"
            )
        return (folder / "pairsight.json").is_file()
    if folder.is_dir() and any(not entry.name.startswith(".") for entry in folder.iterdir()):
        raise RunError(f"{folder} is not empty and holds no training (align.yaml); choose another --name or --out")
    write_file(file, yaml.safe_dump(asdict(origin), sort_keys=False, allow_unicode=True).encode())
    return False


def write_adapter(policy: Any, processor: Any, folder: Path, origin: Origin, card: str) -> None:
    """Write weights, model card and, last, `pairsight.json`, which says that the training is finished.

    A full fine-tuning leaves a whole model with its processor instead of an adapter.
    """
    policy.save_pretrained(folder)
    adapter = hasattr(policy, "peft_config")
    if not adapter:
        processor.save_pretrained(folder)
    write_file(folder / "README.md", card.encode())
    about = {
        "kind": "adapter" if adapter else "model",
        "base": origin.model,
        "base_fingerprint": origin.base_fingerprint,
        "loss": origin.training["loss"],
        "data_sha256": origin.data_sha256,
        **(base_notes(origin.model) if not adapter else {}),
    }
    write_file(folder / "pairsight.json", json.dumps(about, indent=2).encode())


def merge(adapter: str | Path, out: str | Path, model: str | Path | None = None) -> Path:
    """Merge an adapter into its base: a full model folder that plain `transformers` loads.

    Args:
        adapter: an adapter's folder.
        out: a new folder.
        model: the base; default: the one the adapter names.

    Raises:
        ModelError: not an adapter, or not this base's.
        RunError: `out` is not empty.
    """
    import torch
    from transformers import AutoConfig

    from pairsight.models.load import load_model
    from pairsight.models.processor import load_processor
    from pairsight.models.quiet import quiet
    from pairsight.models.reference import resolve

    folder = Path(out)
    if folder.is_dir() and any(folder.iterdir()):
        raise RunError(f"{folder} is not empty; choose another folder for the merged model")
    config_file = Path(adapter) / "adapter_config.json"
    if not config_file.is_file():
        raise ModelError(f"adapter {adapter} has no adapter_config.json; it is no PEFT adapter")
    base = model or json.loads(config_file.read_text(encoding="utf-8"))["base_model_name_or_path"]
    merged = load_model(base, adapter=adapter, dtype="float32", device="cpu").merge_and_unload()
    merged.to(
        AutoConfig.from_pretrained(resolve(base)).dtype or torch.float32
    )  # merged exactly, kept as small as before
    with quiet():
        merged.save_pretrained(folder)
        load_processor(base).save_pretrained(folder)
    if notes := base_notes(str(base)):
        write_file(folder / "pairsight.json", json.dumps(notes, indent=2).encode())
    return folder


def base_notes(model: str) -> dict[str, Any]:
    """What the base's own `pairsight.json` says of how it wants to be used."""
    file = Path(model) / "pairsight.json"
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}


def model_card(
    origin: Origin,
    config: TrainingConfig,
    counts: Mapping[str, Any],
    metrics: Mapping[str, float],
    notes: Sequence[str] = (),
) -> str:
    """The README of an adapter: what it is, what it was trained on and how, and how to load it."""
    head = (
        f"---\nlibrary_name: peft\nbase_model: {origin.model}\ntags: [pairsight, {', '.join(config.loss_names)}]\n---\n"
    )
    load = (
        "```python\nfrom peft import PeftModel\nfrom transformers import AutoModelForImageTextToText\n\n"
        f'model = AutoModelForImageTextToText.from_pretrained("{origin.model}")\n'
        'model = PeftModel.from_pretrained(model, "THIS FOLDER")\n```\n'
    )
    if config.tuning == "full":
        load = (
            "```python\nfrom transformers import AutoModelForImageTextToText\n\n"
            'model = AutoModelForImageTextToText.from_pretrained("THIS FOLDER")\n```\n'
        )
    sections = {
        "Data": {**counts, "sha256": origin.data_sha256},
        "Settings": {k: v for k, v in config.to_plain().items() if v not in (None, {}, [], ())},
        "Last step": {k: f"{v:.6g}" for k, v in metrics.items()},
        "Versions": {name: version(name) for name in _PACKAGES},
    }
    body = "".join(
        f"\n## {title}\n\n| | |\n|---|---|\n" + "".join(f"| {k} | {v} |\n" for k, v in rows.items())
        for title, rows in sections.items()
    )
    title = f"# {origin.model}, aligned with {' + '.join(config.loss_names)}"
    warnings = "".join(f"- {note}\n" for note in notes) + "\n" if notes else ""
    return f"{head}\n{title}\n\nBase: `{origin.model}` ({origin.base_fingerprint}).\n\n{warnings}{load}{body}"


def _differences(here: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    found = [
        f"{name} {here.get(name)!r} here, {wanted[name]!r} asked"
        for name in ("base_fingerprint", "data_sha256")
        if here.get(name) != wanted[name]
    ]
    old, new = here.get("training", {}), wanted["training"]
    names = [n for n in {**old, **new} if n not in _FREE and old.get(n) != new.get(n)]
    return found + [f"{name} {old.get(name)!r} here, {new.get(name)!r} asked" for name in names]
