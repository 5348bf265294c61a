"""An adapter that a training goes on from: what it fixes of the options, and the policy that begins as it."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pairsight.bounded import read_tensors_header
from pairsight.errors import ConfigError, ModelError, one_line
from pairsight.models.folders import check_adapter, fingerprint, read_model_json
from pairsight.training.config import TrainingConfig
from pairsight.training.families import PROJECTORS, TOWERS

_WEIGHTS = "adapter_model.safetensors"
_NOT_SUPPORTED = {"use_dora": "DoRA", "layer_replication": "layer replication", "trainable_token_indices": "token rows"}
"""Kinds of adapters of peft that no training here makes, and that its checks do not cover."""


@dataclass(frozen=True, slots=True)
class Start:
    """An adapter to go on from.

    Args:
        folder: where it is.
        lora_r: its rank.
        lora_alpha: its scale is lora_alpha / lora_r.
        lora_dropout: what it was trained with.
        lora_target_modules: names of the linear layers that have its low-rank weights.
        in_full: names of the modules that it holds in full.
        parts: which parts these are, "projector" or "vision".
    """

    folder: Path
    lora_r: int
    lora_alpha: float
    lora_dropout: float
    lora_target_modules: tuple[str, ...]
    in_full: tuple[str, ...]
    parts: tuple[str, ...]

    @classmethod
    def read(cls, adapter: str | Path, base: str | Path) -> Self:
        """An adapter's folder, looked at without loading it.

        Raises:
            ModelError: no adapter, one of another base, an unfinished training, or a kind that is not supported.
        """
        folder = Path(adapter).expanduser()
        check_adapter(folder, base)
        if (folder / "align.yaml").is_file() and not (folder / "pairsight.json").is_file():
            raise ModelError(f"adapter {folder} is of a training that is not finished: finish it first")
        config = read_model_json(folder / "adapter_config.json")
        kind = config.get("peft_type")
        unsupported = [called for name, called in _NOT_SUPPORTED.items() if config.get(name)]
        if config.get("init_lora_weights", True) not in (True, False, "gaussian"):
            unsupported.append(f"weights that change the base ({one_line(config['init_lora_weights'], 40)})")
        if kind != "LORA" or unsupported or config.get("bias", "none") != "none":
            found = kind if kind != "LORA" else unsupported[0] if unsupported else f"biases ({config['bias']})"
            raise ModelError(f"adapter {folder} has {found}: a training can go on from plain LoRA only")
        names = list(read_tensors_header(folder / _WEIGHTS)[0])
        low_rank = {name.partition(".lora_")[0] for name in names if ".lora_" in name}
        if outside := sorted(name for name in low_rank if _part(name)):
            raise ModelError(
                f"adapter {folder} has low-rank weights outside the language model, first at {outside[0]}, which is "
                "not supported: merge it and give the merged model as --model"
            )
        in_full = tuple(str(name) for name in config.get("modules_to_save") or ())
        parts = {name: _part(name) for name in in_full}
        if strange := [name for name, part in parts.items() if not part]:
            raise ModelError(
                f"adapter {folder} holds '{strange[0]}' in full, neither projector nor vision tower, which is not "
                "supported: merge it and give the merged model as --model"
            )
        try:
            return cls(
                folder,
                int(config["r"]),
                float(config["lora_alpha"]),
                float(config.get("lora_dropout") or 0.0),
                tuple(sorted({name.rpartition(".")[2] for name in low_rank})),
                in_full,
                tuple(sorted(set(parts.values()))),
            )
        except (KeyError, TypeError, ValueError) as error:
            message = f"adapter {folder}: its adapter_config.json lacks rank or scale ({one_line(error)})"
            raise ModelError(message) from None

    @property
    def fingerprint(self) -> str:
        """Of the adapter's own files."""
        return fingerprint(self.folder)

    def named(self) -> dict[str, str]:
        """What a training's record says of it, by the names there."""
        return {"adapter": str(self.folder), "adapter_fingerprint": self.fingerprint}

    def settled(self, config: TrainingConfig, given: Collection[str]) -> TrainingConfig:
        """The options with the adapter's own for what it fixes: rank, scale and layers, and dropout unless it is given.

        Args:
            config: of the training.
            given: the names of the options that the user gave.

        Raises:
            ConfigError: an option that was given and that the adapter contradicts.
        """
        if config.tuning == "full":
            raise ConfigError(
                f"tuning=full trains no adapters, and {self.folder} is one: merge it and give the merged model as "
                "--model, or choose tuning=lora"
            )
        layers = tuple(sorted(config.lora_target_modules)) or self.lora_target_modules
        for name, value, own in (
            ("lora_r", config.lora_r, self.lora_r),
            ("lora_alpha", config.lora_alpha, self.lora_alpha),
            ("lora_target_modules", layers, self.lora_target_modules),
        ):
            if name in given and value != own:
                raise ConfigError(
                    f"{name}={value} differs from the {own} of adapter {self.folder}, which a training that goes on "
                    f"from it keeps; leave {name} out"
                )
        return config.model_copy(
            update={
                "lora_r": self.lora_r,
                "lora_alpha": self.lora_alpha,
                "lora_target_modules": self.lora_target_modules,
                "lora_dropout": config.lora_dropout if "lora_dropout" in given else self.lora_dropout,
            }
        )

    def policy(self, model: Any, config: TrainingConfig, opened: Sequence[str]) -> Any:
        """The base under the adapter, trainable.

        Args:
            model: the base, frozen.
            config: settled.
            opened: full names of the modules that this training trains in full, whether or not the adapter holds them.

        Raises:
            ModelError: weights that do not fit the base.
        """
        from peft import (
            LoraConfig,
            get_peft_model,
            get_peft_model_state_dict,
            load_peft_weights,
            set_peft_model_state_dict,
        )

        from pairsight.models.load import quiet

        settings = LoraConfig.from_pretrained(str(self.folder))
        settings.lora_dropout, settings.inference_mode = config.lora_dropout, False
        settings.modules_to_save = [*dict.fromkeys([*self.in_full, *opened])] or None
        settings.base_model_name_or_path = model.name_or_path
        with quiet():
            try:
                policy = get_peft_model(model, settings)
                own = get_peft_model_state_dict(policy)
                held = load_peft_weights(str(self.folder), device="cpu")
            except Exception as error:  # noqa: BLE001 - peft raises many classes for adapters that do not fit
                raise ModelError(f"adapter {self.folder} does not fit the model: {one_line(error)}") from None
            missing = {name for name in own.keys() - held.keys() if not any(f".{one}." in name for one in opened)}
            if wrong := sorted((held.keys() - own.keys()) | missing):
                raise ModelError(
                    f"adapter {self.folder} does not fit the model: {len(wrong)} tensors are in only one of the two, "
                    f"first {wrong[0]}; give the model it was trained on"
                )
            try:
                set_peft_model_state_dict(policy, {**own, **held})
            except Exception as error:  # noqa: BLE001 - as above
                raise ModelError(f"adapter {self.folder} does not fit the model: {one_line(error)}") from None
        for name, parameter in policy.named_parameters():
            if ".modules_to_save." in name and not any(f".{module}." in name for module in opened):
                parameter.requires_grad_(False)  # it stays as the adapter has it
                parameter.data = parameter.data.float()
        return policy


def _part(name: str) -> str:
    """The part that a module's name belongs to: "projector", "vision", or "" for the language model."""
    pieces = name.split(".")
    if any(piece in PROJECTORS for piece in pieces):
        return "projector"
    return "vision" if any(piece in TOWERS for piece in pieces) else ""
