"""LoRA on LLaVA-1.5 between the layout of its authors and `peft`: low-rank weights, and what was trained in full.

Original: `adapter_config.json`, `adapter_model.bin` or `.safetensors` with names below `base_model.model.`, and
`non_lora_trainables.bin` with the projector. A merged weight is W + α/r · B A.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from pairsight.errors import ModelError, one_line
from pairsight.models.checkpoints.files import Planned, WeightFiles, weight_files, write_weights
from pairsight.models.checkpoints.llava_names import to_original, to_transformers
from pairsight.models.checkpoints.llava_original import original_config
from pairsight.models.folders import base_of_adapter, check_adapter, read_model_json
from pairsight.store.durable import write_file

if TYPE_CHECKING:
    from torch import Tensor

_PREFIX = "base_model.model."
_IN_FULL = "non_lora_trainables"
_PROJECTOR = re.compile(r"^multi_modal_projector\.linear_[12]\.(weight|bias)$")
_LAYER = re.compile(r"^model\.layers\.\d+\.(self_attn|mlp)\.(\w+)$")
_NOT_PLAIN = ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern", "fan_in_fan_out", "layer_replication")


def is_original_lora(folder: Path) -> bool:
    """Whether a folder holds LoRA weights as LLaVA's authors' code saves them."""
    return (folder / "adapter_config.json").is_file() and any(folder.glob(f"{_IN_FULL}.*"))


@dataclass(frozen=True, slots=True)
class LowRank:
    """An adapter: its settings, and its tensors by module.

    Args:
        folder: where it is.
        r: its rank.
        alpha: its scale is alpha / r.
        dropout: what it was trained with.
        a: module -> A, [r, inputs].
        b: module -> B, [outputs, r].
        in_full: name -> a tensor that was trained in full.
    """

    folder: Path
    r: int
    alpha: float
    dropout: float
    a: Mapping[str, Planned]
    b: Mapping[str, Planned]
    in_full: Mapping[str, Planned]

    @classmethod
    def read(cls, folder: Path) -> Self:
        """An adapter in either layout, its names as they are there, without `base_model.model.`.

        Raises:
            ModelError: not plain LoRA, or A without B.
        """
        config = read_model_json(folder / "adapter_config.json")
        odd = [name for name in _NOT_PLAIN if config.get(name)]
        if config.get("peft_type") != "LORA" or odd or config.get("bias", "none") != "none":
            what = odd[0] if odd else f"peft_type {config.get('peft_type')}, bias {config.get('bias')}"
            raise ModelError(f"adapter {folder} is not plain LoRA ({one_line(what, 60)}), which is what is converted")
        a: dict[str, Planned] = {}
        b: dict[str, Planned] = {}
        in_full: dict[str, Planned] = {}
        files = [*weight_files(folder, "adapter_model"), *sorted(folder.glob(f"{_IN_FULL}.*"))]
        for name, one in WeightFiles(files).planned.items():
            bare = name.removeprefix(_PREFIX)
            module, low_rank, kind = bare.partition(".lora_")
            if not low_rank:
                in_full[bare.replace(".modules_to_save.default.", ".")] = one
            else:
                (a if kind.startswith("A.") else b)[module] = one
        if a.keys() != b.keys() or not a:
            raise ModelError(f"adapter {folder} has A of {len(a)} modules and B of {len(b)}: it is not complete")
        try:
            r, alpha = int(config["r"]), float(config["lora_alpha"])
        except (KeyError, TypeError, ValueError):
            raise ModelError(f"adapter {folder}: its adapter_config.json lacks r or lora_alpha") from None
        if wrong := [m for m in a if a[m].shape[0] != r or b[m].shape[-1] != r]:
            raise ModelError(f"adapter {folder} says rank {r}, and {wrong[0]} has {list(a[wrong[0]].shape)}")
        return cls(folder, r, alpha, float(config.get("lora_dropout") or 0.0), a, b, in_full)

    @property
    def layer_names(self) -> list[str]:
        """The names of the linear layers with low-rank weights."""
        return sorted({module.rpartition(".")[2] for module in self.a})


def merged(adapter: LowRank, base: Mapping[str, Planned]) -> dict[str, Planned]:
    """The base's tensors with the adapter's change: W + α/r · B A in float32, rounded to W's type.

    Args:
        adapter: with original names.
        base: tensors by original names.

    Raises:
        ModelError: a module that the base does not have, or of another shape.
    """
    found = dict(base)
    for module, a in adapter.a.items():
        b, name = adapter.b[module], f"{module}.weight"
        if name not in base:
            raise ModelError(f"adapter {adapter.folder} changes {module}, which its base does not have: another base")
        if base[name].shape != (b.shape[0], a.shape[1]):
            raise ModelError(f"adapter {adapter.folder} does not fit {module}, {list(base[name].shape)}: another base")
        found[name] = _changed(base[name], a, b, adapter.alpha / adapter.r)
    for name, one in adapter.in_full.items():
        if name in base and base[name].shape != one.shape:
            raise ModelError(
                f"adapter {adapter.folder}: {name} is {list(one.shape)}, {list(base[name].shape)} in its base"
            )
        found[name] = one.renamed(name)
    return found


def _changed(weight: Planned, a: Planned, b: Planned, scale: float) -> Planned:
    def make() -> "Tensor":
        product = b.make().float() @ a.make().float()
        return (weight.make().float() + scale * product).to(weight.dtype)

    return Planned(weight.name, weight.shape, weight.dtype, make)


def write_peft(adapter: LowRank, base: str, draft: Path) -> list[Planned]:
    """Write an original adapter as one of `peft` on a LLaVA of `transformers`.

    Args:
        adapter: with original names.
        base: the folder of the base.
        draft: where to.

    Raises:
        ModelError: weights outside the language model and the projector.
    """
    planned = []
    for part, tensors in (("A", adapter.a), ("B", adapter.b)):
        for module, one in tensors.items():
            if not _LAYER.match(module):
                raise ModelError(f"adapter {adapter.folder} changes {module}, outside the language model's layers")
            inner = module.replace("model.layers.", "model.language_model.layers.", 1)
            planned.append(one.renamed(f"{_PREFIX}{inner}.lora_{part}.weight"))
    for name, one in adapter.in_full.items():
        published = to_transformers(name) or ""
        if not _PROJECTOR.match(published):
            raise ModelError(f"adapter {adapter.folder} trained {name} in full, which is not the projector")
        planned.append(one.renamed(f"{_PREFIX}model.{published}"))
    targets = rf"(.*\.)?model\.language_model\..*\.({'|'.join(adapter.layer_names)})"
    in_full = ["model.multi_modal_projector"] if adapter.in_full else None
    write_file(draft / "adapter_config.json", _config(adapter, base, targets, in_full))
    write_weights(draft, planned, "adapter_model")
    return planned


def write_original_lora(folder: Path, base: str | None, vision_tower: str | None, draft: Path) -> list[Planned]:
    """Write an adapter of `peft` on a LLaVA-1.5 as the authors' code loads it.

    The projector goes into `non_lora_trainables.bin` also where it was not trained, so that the adapter loads on Vicuna
    and on LLaVA-1.5 alike. The two files are pickles, because that code reads no others.

    Args:
        folder: of the adapter.
        base: the folder of transformers that it was trained on; None: the one that the adapter names.
        vision_tower: what the authors' code shall load as the tower.
        draft: where to.

    Raises:
        ModelError: a tower that was trained, which that code would not load, or not plain LoRA on a LLaVA-1.5.
    """
    import torch

    under = Path(base or base_of_adapter(folder) or "")
    check_adapter(folder, under)
    adapter, config = LowRank.read(folder), original_config(under, vision_tower)
    low_rank: dict[str, Tensor] = {}
    for part, tensors in (("A", adapter.a), ("B", adapter.b)):
        for module, one in tensors.items():
            original = (to_original(f"{module}.weight") or "").removesuffix(".weight")
            if not _LAYER.match(original):
                raise ModelError(
                    f"adapter {folder} changes {module}; the authors' code has LoRA in the language model's layers only"
                )
            low_rank[f"{_PREFIX}{original}.lora_{part}.weight"] = one.make().contiguous()
    trained = {to_original(name) or name: one for name, one in adapter.in_full.items()}
    if other := [name for name in trained if not name.startswith("model.mm_projector.")]:
        raise ModelError(
            f"adapter {folder} trained {other[0]} in full: the authors' code would take the vision tower from "
            f"{config.tower} instead; merge it and convert the merged model"
        )
    whole = {to_original(name) or name: one for name, one in WeightFiles(weight_files(under)).planned.items()}
    projector = {name: one for name, one in whole.items() if name.startswith("model.mm_projector.")} | trained
    in_full = {f"{_PREFIX}{name}": one.make().contiguous() for name, one in projector.items()}
    write_file(draft / "config.json", config.text.encode())
    write_file(draft / "adapter_config.json", _config(adapter, str(under), adapter.layer_names, None))
    torch.save(low_rank, draft / "adapter_model.bin")
    torch.save(in_full, draft / f"{_IN_FULL}.bin")
    return [*adapter.a.values(), *adapter.b.values(), *projector.values()]


def _config(adapter: LowRank, base: str, targets: str | list[str], in_full: list[str] | None) -> bytes:
    """The content of `adapter_config.json`."""
    alpha = int(adapter.alpha) if adapter.alpha == int(adapter.alpha) else adapter.alpha
    plain = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": adapter.r, "lora_alpha": alpha,
        "lora_dropout": adapter.dropout, "bias": "none", "fan_in_fan_out": False, "inference_mode": True,
        "base_model_name_or_path": base, "target_modules": targets, "modules_to_save": in_full,
    }  # fmt: skip
    return json.dumps(plain, indent=2).encode()
