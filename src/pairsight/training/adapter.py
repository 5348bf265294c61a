"""The folder that a training writes: weights that plain `peft` or `transformers` load, and how they were made."""

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pairsight.config import option_facts, plain_defaults, read_yaml
from pairsight.errors import ConfigError, ModelError, RunError
from pairsight.models.folders import (
    NO_PART,
    PROMPT_SUFFIX_FILE,
    check_model,
    check_tensors,
    read_model_json,
    resolve,
)
from pairsight.models.profiles.profile import Profile
from pairsight.store.durable import (
    copy_file,
    damaged_file,
    make_folder,
    publish_folder,
    read_marker,
    write_file,
    write_marker,
    written_by_a_library,
)
from pairsight.store.lock import exclusive_lock
from pairsight.training.config import TrainingConfig

if TYPE_CHECKING:
    from torch import Tensor

MARK = "pairsight.json"
"""Written last: it says that a training, or a merged model, is complete, and lists its files with their hashes."""

_BASE_FILES = ("*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken", "*templates/*.jinja")
_NOT_OF_THE_BASE = {*NO_PART, "config.json", "adapter_config.json", PROMPT_SUFFIX_FILE}
_OF_ONE_FOLDER = {"files", "kind", "base", "base_fingerprint", "loss", "data_sha256", "movement_kept"}
_OF_ONE_FOLDER |= {"adapter", "adapter_fingerprint", "reference"}
_LOG = logging.getLogger("pairsight.training")
_PACKAGES = ("pairsight", "torch", "transformers", "peft", "accelerate")
_NEW = ("min_steps_per_epoch",)
"""Options whose default is not what versions did that had no such option: their unfinished trainings do not go on."""


@dataclass(frozen=True, slots=True)
class Origin:
    """What a training starts from: stored before it starts, compared when the folder is used again.

    Args:
        model: the base, as the user named it.
        base_fingerprint: the base's identity.
        data_sha256: of all examples and their order.
        num_examples: before any are skipped.
        training: all its options.
        devices: how many train together.
        profile: that the model is used with.
        adapter: the adapter that it goes on from, as the user named it; "" for none.
        adapter_fingerprint: that adapter's identity.
    """

    model: str
    base_fingerprint: str
    data_sha256: str
    num_examples: int
    training: TrainingConfig
    devices: int = 1
    profile: Profile | None = None
    adapter: str = ""
    adapter_fingerprint: str = ""

    def as_used(self, fingerprint: str) -> str:
        """A model's fingerprint together with the profile: what tokens and reference log-probs belong to."""
        return fingerprint if self.profile is None else self.profile.applied_to(fingerprint)

    def to_plain(self) -> dict[str, Any]:
        """The content of `align.yaml`."""
        plain = {name: value for name, value in asdict(self).items() if value != "" and name != "profile"}
        said = {} if self.profile is None else {"profile": self.profile.to_plain()}
        return plain | {"training": self.training.to_plain(), **said}

    def start_notes(self) -> dict[str, str]:
        """What `pairsight.json` says of the adapter that it went on from; nothing without one."""
        if not self.adapter:
            return {}
        reference = self.training.reference or "adapter"
        return {"adapter": self.adapter, "adapter_fingerprint": self.adapter_fingerprint, "reference": reference}


def claim(folder: Path, origin: Origin) -> bool:
    """Claim `folder` for this training, or recognise it as its own.

    Returns:
        Whether the training in it is finished, maybe by a version that lacked options which now have their defaults.

    Raises:
        RunError: the folder holds another training, or something else.
    """
    import yaml

    file = folder / "align.yaml"
    if file.is_file():
        here, wanted = _read_origin(file), origin.to_plain()
        known = {**plain_defaults(TrainingConfig), **here.get("training", {})}  # what an earlier version did not have
        finished = not _differences({**here, "training": known}, wanted) and is_finished(folder)
        same = {name: value for name, value in known.items() if name in here.get("training", {}) or name not in _NEW}
        if not finished and (differences := _differences({**here, "training": same}, wanted)):
            raise RunError(
                f"{folder} holds another training ({'; '.join(differences)}); choose another --name or --out, or the "
                "same options to resume it"
            )
        return finished
    if folder.is_dir() and any(not entry.name.startswith(".") for entry in folder.iterdir()):
        raise RunError(f"{folder} is not empty and holds no training (align.yaml); choose another --name or --out")
    write_file(file, yaml.safe_dump(origin.to_plain(), sort_keys=False, allow_unicode=True).encode())
    return False


def is_finished(folder: Path) -> bool:
    """Whether a training is finished and its files are intact; logs a warning where they are damaged."""
    if not (folder / MARK).exists():
        return False
    if damage := _damage(folder):
        _LOG.warning(
            "%s was finished, but %s: it resumes from its newest complete checkpoint, if it has one", folder, damage
        )
    return not damage


def write_adapter(
    policy: Any,
    folder: Path,
    origin: Origin,
    extra_files: Mapping[str, bytes],
    state: "Mapping[str, Tensor] | None" = None,
) -> None:
    """Write the weights with their files and, last, `pairsight.json`, which says that the training is finished.

    Full fine-tuning writes a complete model instead of an adapter, with the files of its base other than weights.

    Args:
        extra_files: further files by name, including the model card.
        state: the weights by name, where the policy does not have them complete.
    """
    from pairsight.models.load import quiet

    adapter = hasattr(policy, "peft_config")
    (folder / MARK).unlink(missing_ok=True)
    with quiet(), written_by_a_library(folder):
        policy.save_pretrained(folder, state_dict=state)
    if not adapter:
        copy_base_files(origin.model, folder)
    if origin.profile is not None:
        said = json.loads(extra_files.get(PROMPT_SUFFIX_FILE, b"{}")) | {"profile": origin.profile.to_plain()}
        extra_files = {**extra_files, PROMPT_SUFFIX_FILE: json.dumps(said, ensure_ascii=False).encode()}
    for name, content in extra_files.items():
        write_file(folder / name, content)
    about = {
        **(base_notes(origin.model) if not adapter else {}),
        "kind": "adapter" if adapter else "model",
        "base": origin.model,
        "base_fingerprint": origin.base_fingerprint,
        "loss": origin.training.to_plain()["loss"],
        "data_sha256": origin.data_sha256,
        **origin.start_notes(),
    }
    write_marker(folder / MARK, about, _own_files(folder))


def merged_model(adapter: Path, model: str | Path | None = None) -> Path:
    """The adapter's `merged/` folder: as it is if complete, else written (again).

    Args:
        adapter: an adapter's folder.
        model: the base; default: the one the adapter names.

    Raises:
        ModelError: not an adapter, or not this base's.
        LockedError: another process trains or merges this adapter.
    """
    folder = adapter / "merged"
    with exclusive_lock(adapter / ".lock", f"merging {adapter}"):
        if folder.is_dir():
            if not (damage := _merged_damage(folder)):
                return folder
            _LOG.warning("%s is not complete (%s): it is written again", folder, damage)
            shutil.rmtree(folder)
        return merge(adapter, folder, model)


def merge(adapter: str | Path, out: str | Path, model: str | Path | None = None) -> Path:
    """Merge an adapter into its base: a full model folder that plain `transformers` loads, complete or absent.

    Args:
        adapter: an adapter's folder.
        out: a new folder.
        model: the base; default: the one the adapter names.

    Raises:
        ModelError: not an adapter, or not this base's.
        RunError: `out` is not empty, or cannot be written.
    """
    folder = Path(out)
    if folder.is_dir() and any(folder.iterdir()):
        raise RunError(f"{folder} is not empty; choose another folder for the merged model")
    config_file = Path(adapter) / "adapter_config.json"
    if not config_file.is_file():
        raise ModelError(f"adapter {adapter} has no adapter_config.json; it is not a PEFT adapter")
    base = str(model or read_model_json(config_file)["base_model_name_or_path"])
    draft = folder.with_name(f".{folder.name}.draft")
    with exclusive_lock(folder.with_name(f".{folder.name}.lock"), f"merging into {folder}"):
        if draft.is_dir():
            shutil.rmtree(draft)
        make_folder(draft)
        try:
            _write_merged(base, Path(adapter), draft)
            publish_folder(draft, folder)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
    return folder


def _write_merged(base: str, adapter: Path, folder: Path) -> None:
    """Merge an adapter in float32 and save the model in the base's type; all other files are the base's."""
    import torch
    from transformers import AutoConfig

    from pairsight.models.load import load_model, quiet
    from pairsight.training.policy import movement_kept

    policy = load_model(base, adapter=adapter, dtype="float32", device="cpu")
    dtype = AutoConfig.from_pretrained(resolve(base)).dtype or torch.float32
    for kind, share in (kept := movement_kept(policy, dtype)).items():
        if share < 0.9:
            text = "rounded to the base's %s, the merged model keeps %.0f %% of the change of %s; evaluate %s itself"
            _LOG.warning(text, str(dtype)[6:], 100 * share, kind.replace("_", " "), adapter)
    origin = adapter / "align.yaml"
    if origin.is_file() and _read_origin(origin).get("training", {}).get("load_in_4bit"):
        text = "%s was trained above its base in 4 bits and is merged into the base's full weights: evaluate the result"
        _LOG.warning(text, adapter)
    with quiet(), written_by_a_library(folder):
        policy.merge_and_unload().to(dtype).save_pretrained(folder)
    copy_base_files(base, folder)
    if (adapter / PROMPT_SUFFIX_FILE).is_file():
        copy_file(adapter / PROMPT_SUFFIX_FILE, folder / PROMPT_SUFFIX_FILE)
    about = {**base_notes(base), "kind": "model", "base": base, "movement_kept": kept}
    write_marker(folder / MARK, about, _own_files(folder))


def copy_base_files(model: str, folder: Path) -> None:
    """Copy a model's files other than weights and config: processor, tokenizer, template, generation settings.

    The loaded processor may lack a part that others need, e.g. the video processor where torchvision is missing.

    Args:
        model: the base: a folder or a hub name.
        folder: where a model derived from it was saved.
    """
    base = resolve(model)
    for path in sorted(path for pattern in _BASE_FILES for path in base.glob(pattern)):
        name = path.relative_to(base)
        if path.is_file() and name.name not in _NOT_OF_THE_BASE and not name.name.endswith(".index.json"):
            copy_file(path, folder / name)


def base_notes(model: str) -> dict[str, Any]:
    """The notes in the base's own `pairsight.json` on how to use it."""
    file = Path(model) / MARK
    notes = read_model_json(file) if file.is_file() else {}
    return {name: value for name, value in notes.items() if name not in _OF_ONE_FOLDER}


def model_card(
    origin: Origin,
    config: TrainingConfig,
    counts: Mapping[str, int],
    metrics: Mapping[str, float],
    notes: Sequence[str] = (),
) -> str:
    """The README of an adapter: what it is, what it was trained on and how, and how to load it."""
    library, names = "transformers" if config.tuning == "full" else "peft", ", ".join(config.loss_names)
    head = f"---\nlibrary_name: {library}\nbase_model: {origin.model}\ntags: [pairsight, {names}]\n---\n"
    full, auto = config.tuning == "full", "AutoModelForImageTextToText"
    loaded = "THIS FOLDER" if full else origin.model
    imports = ("" if full else "from peft import PeftModel\n") + f"from transformers import {auto}\n\n"
    load = f'```python\n{imports}model = {auto}.from_pretrained("{loaded}")\n'
    load += "```\n" if full else 'model = PeftModel.from_pretrained(model, "THIS FOLDER")\n```\n'
    sections: dict[str, dict[str, Any]] = {
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
    four = "trained above the base's language model in 4 bits; merging and evaluating use the base's full weights"
    went_on = f"went on from the adapter `{origin.adapter}` ({origin.adapter_fingerprint})"
    shown = "" if origin.profile is None else f"images and prompts as profile '{origin.profile.name}' has them"
    notes = [*notes, *([four] if config.load_in_4bit else []), *([went_on] if origin.adapter else [])]
    notes += [shown] if shown else []
    warnings = "".join(f"- {note}\n" for note in notes) + "\n" if notes else ""
    return f"{head}\n{title}\n\nBase: `{origin.model}` ({origin.base_fingerprint}).\n\n{warnings}{load}{body}"


def _read_origin(file: Path) -> dict[str, Any]:
    try:
        origin = read_yaml(file)
        if isinstance(origin.get("training", {}), dict):
            return origin
        raise ConfigError(f"{file}: 'training' must hold options, found {origin['training']!r:.60}")
    except ConfigError as error:
        raise RunError(
            f"{error}: it says which training this folder holds; remove the folder to start over, or choose another "
            "--name or --out"
        ) from None


def _damage(folder: Path) -> str:
    """What is wrong with a finished training: changed weights, or a missing file of another kind; "" for nothing."""
    try:
        files = read_marker(folder / MARK).get("files")
        if files is not None:
            missing = (f"{name} is missing or empty" for name in files if not _has_bytes(folder / name))
            weights = {name: listed for name, listed in files.items() if name.endswith(".safetensors")}
            return next(missing, "") or damaged_file(folder, weights)
        for path in folder.glob("*.safetensors"):
            check_tensors(path)
    except (RunError, ModelError) as error:
        return str(error)
    return "" if any(folder.glob("*.safetensors")) else "it has no weights"


def _merged_damage(folder: Path) -> str:
    """As `_damage`; a merged model of an earlier version, which has no mark, must load."""
    if (folder / MARK).exists():
        return _damage(folder)
    try:
        check_model(folder, template=False)
    except ModelError as error:
        return str(error)
    return ""


def _has_bytes(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def _own_files(folder: Path) -> list[str]:
    """The files that a mark lists: without those for people to read, and those that still change."""
    paths = [*folder.iterdir(), *folder.glob("*templates/*")]
    names = [str(path.relative_to(folder)) for path in paths if path.is_file() and not path.name.startswith(".")]
    return [name for name in names if name not in (MARK, "README.md", "metrics.jsonl")]


def _differences(here: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    found = [
        f"{name} {here.get(name)!r} here, {wanted.get(name)!r} asked"
        for name in ("base_fingerprint", "data_sha256", "adapter_fingerprint")
        if here.get(name) != wanted.get(name)
    ]
    if here.get("profile") != wanted.get("profile"):
        found.append("another profile")
    old, new = here.get("training", {}), wanted["training"]
    free = {name for name, option in option_facts(TrainingConfig).items() if not option.compared}
    if (before := here.get("devices", 1)) != wanted["devices"]:
        free |= {"per_device_train_batch_size", "gradient_accumulation_steps"}
        found += _other_batch({**plain_defaults(TrainingConfig), **old}, before, new, wanted["devices"])
    names = [n for n in {**old, **new} if n not in free and old.get(n) != new.get(n)]
    return found + [f"{name} {old.get(name)!r} here, {new.get(name)!r} asked" for name in names]


def _other_batch(old: Any, before: int, new: Any, now: int) -> list[str]:
    """How the batches of a training on another number of devices differ: by their prompts over all devices."""
    here, asked = (options["per_device_train_batch_size"] * count for options, count in ((old, before), (new, now)))
    if new["group_by_image"] and here != asked:
        return [
            f"{here} prompts a batch on {before} devices here, {asked} on {now} asked, which group_by_image depends on"
        ]
    here, asked = here * old["gradient_accumulation_steps"], asked * new["gradient_accumulation_steps"]
    if here == asked:
        return []
    return [f"{here} prompts a step on {before} devices here, {asked} on {now} asked: set gradient_accumulation_steps"]
