"""Models from folders: safetensors only, with an adapter when asked, on the device at hand."""

import os
import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pairsight.errors import MissingExtraError, ModelError, one_line
from pairsight.models.folders import check_adapter, check_model, local_folder, read_model_json, resolve
from pairsight.models.four_bits import nf4_config
from pairsight.models.pickled import PICKLES, convert_command
from pairsight.models.protocols import Model

if TYPE_CHECKING:
    import torch


def load_model(
    model_name: str | Path,
    *,
    adapter: str | Path | None = None,
    dtype: "torch.dtype | str | None" = None,
    device: "torch.device | str | None" = None,
    trust_remote_code: bool = False,
    float32_modules: Sequence[str] = (),
    in_4_bits: Callable[[Any], Any] | None = None,
) -> Any:
    """A model ready to run (`eval`, no gradients asked for), as `AutoModelForImageTextToText` or, text-only, causal.

    Args:
        model_name: a folder, or a hub name.
        adapter: a PEFT adapter's folder; its layers come on top, unmerged.
        dtype: default: bfloat16 on a GPU, float32 on a CPU.
        device: default: the GPU where there is one.
        float32_modules: names of modules whose weights are read as float32, whatever `dtype` says.
        in_4_bits: picks the part of the model whose linear layers are kept in 4 bits (nf4), with products in `dtype`;
            all other weights are as in the folder.

    Raises:
        MissingExtraError: 4 bits, without bitsandbytes.
        ModelError: the folder lacks something, its weights do not fit its config, or the adapter is another model's.
    """
    check_model(model_name, template=False)
    folder = resolve(model_name)
    chosen = pick_device(device)
    options: dict[str, object] = {"dtype": pick_dtype(dtype, chosen), "trust_remote_code": trust_remote_code}
    if chosen.type != "cpu" or in_4_bits is not None:
        options["device_map"] = {"": chosen}  # straight to the device, without a copy in main memory
    with quiet(), _kept_in_float32(float32_modules):
        try:
            auto = auto_class(folder, trust_remote_code)
            if in_4_bits is not None:
                options["quantization_config"] = nf4_config(
                    auto, folder, in_4_bits, pick_dtype(dtype, chosen), trust_remote_code=trust_remote_code
                )
            model, info = auto.from_pretrained(str(folder), use_safetensors=True, output_loading_info=True, **options)
        except (ModelError, MissingExtraError):
            raise
        except Exception as error:  # noqa: BLE001 - a damaged folder fails in as many ways as there are families
            raise ModelError(f"model {model_name} cannot be loaded: {one_line(error)}") from None
    lacking = _lacking(info)
    if lacking:
        raise ModelError(
            f"model {model_name}: its weights do not fit its config.json, {len(lacking)} tensors are missing or have "
            f"another shape, first {lacking[0]}; copy the folder again"
        )
    if float32_modules:
        state_dtype(model, model.get_input_embeddings().weight.dtype)
    if adapter is not None:
        check_adapter(adapter, model_name)
        model = _with_adapter(model, Path(adapter).expanduser(), model_name)
    return model.to(chosen).eval()


@contextmanager
def _kept_in_float32(names: Sequence[str]) -> Iterator[None]:
    """Let transformers read some modules as float32 without a detour through a shorter type."""
    from transformers import PreTrainedModel

    before = PreTrainedModel._keep_in_fp32_modules_strict
    PreTrainedModel._keep_in_fp32_modules_strict = [*(before or ()), *names]
    try:
        yield
    finally:
        PreTrainedModel._keep_in_fp32_modules_strict = before


def state_dtype(model: Any, dtype: "torch.dtype") -> None:
    """Let a model some of whose modules are float32 name the type of all others as its own.

    Its `dtype` is that of its first weights, often a vision tower's, and some families cast image features to it.
    """
    for module in (model, model.base_model):
        if module.dtype != dtype:
            cls = type(module)
            module.__class__ = type(cls.__name__, (cls,), {"dtype": dtype, "__module__": cls.__module__})


def pick_device(device: "torch.device | str | None" = None) -> "torch.device":
    """The device asked for, else the GPU where there is one, else the CPU."""
    import torch

    if device is not None:
        return torch.device(device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def pick_dtype(dtype: "torch.dtype | str | None", device: "torch.device") -> "torch.dtype":
    """The type asked for (also by name, e.g. "bfloat16"), else bfloat16 on a GPU and float32 on a CPU.

    Raises:
        ModelError: a name that torch does not know.
    """
    import torch

    if dtype is None:
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if isinstance(dtype, torch.dtype):
        return dtype
    found = getattr(torch, dtype, None)
    if not isinstance(found, torch.dtype):
        raise ModelError(f"dtype '{dtype}' is unknown; use float32, bfloat16 or float16")
    return found


def auto_class(folder: Path, trust_remote_code: bool) -> Any:
    """The class of transformers that makes a folder's model: one that sees, else a causal language model."""
    from transformers import (
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
        AutoConfig,
        AutoModelForCausalLM,
        AutoModelForImageTextToText,
    )

    config = AutoConfig.from_pretrained(str(folder), trust_remote_code=trust_remote_code)
    sees = type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING or (
        "AutoModelForImageTextToText" in (getattr(config, "auto_map", None) or {})
    )
    return AutoModelForImageTextToText if sees else AutoModelForCausalLM


def from_config(model_name: str | Path, dtype: "torch.dtype | None" = None) -> Any:
    """A model made from its config alone; on the meta device, or with fake tensors, it has no weights.

    Raises:
        ModelError: the config is missing, or no model can be made from it.
    """
    from transformers import AutoConfig

    folder = resolve(model_name)
    with quiet():
        try:
            config = AutoConfig.from_pretrained(str(folder))
            return auto_class(folder, trust_remote_code=False).from_config(config, dtype=dtype)
        except Exception as error:  # noqa: BLE001 - a damaged config fails in as many ways as there are families
            raise ModelError(f"model {model_name} cannot be made from its config: {one_line(error)}") from None


def _with_adapter(model: Any, adapter: Path, model_name: str | Path) -> Any:
    """The model under its adapter, every tensor of which must fit.

    Modules that the adapter holds in full stay in float32, as they were trained: in bfloat16 the small steps of their
    training would round away.
    """
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import safe_open

    dtype = model.dtype
    with quiet():
        try:
            wrapped = PeftModel.from_pretrained(model, str(adapter), is_trainable=False)
            own = set(get_peft_model_state_dict(wrapped))
        except Exception as error:  # noqa: BLE001 - peft raises many classes for adapters that do not fit
            message = f"adapter {adapter} does not fit the model {model_name}: {one_line(error)}"
            raise ModelError(message) from None
    with safe_open(adapter / "adapter_model.safetensors", framework="pt") as file:
        strangers = [name for name in file.keys() if name not in own]  # noqa: SIM118 - not a mapping
    if strangers:
        raise ModelError(
            f"adapter {adapter} does not fit the model {model_name}: {len(strangers)} of its tensors have no "
            f"counterpart there, first {strangers[0]}; give the model it was trained on"
        )
    _use_in_float32(wrapped, adapter, dtype)
    return wrapped


def _use_in_float32(model: Any, adapter: Path, dtype: "torch.dtype") -> None:
    """Keep the modules that an adapter holds in full in float32; they take and give the other modules' type.

    Only the adapter's own copies change: the base's modules may share their weights with others.
    """
    import torch
    from peft import load_peft_weights, set_peft_model_state_dict
    from peft.utils.other import ModulesToSaveWrapper
    from torch.utils._pytree import tree_map

    def cast(value: Any, to: torch.dtype) -> Any:
        return tree_map(lambda x: x.to(to) if torch.is_tensor(x) and x.is_floating_point() else x, value)

    wrappers = [module for module in model.modules() if isinstance(module, ModulesToSaveWrapper)]
    if dtype == torch.float32 or not wrappers:
        return
    for wrapper in wrappers:
        for module in wrapper.modules_to_save.values():
            module.float()
            module.register_forward_pre_hook(
                lambda _, args, named: cast((args, named), torch.float32), with_kwargs=True
            )
            module.register_forward_hook(lambda _, args, output: cast(output, dtype))
    set_peft_model_state_dict(model, load_peft_weights(str(adapter), device="cpu"))
    state_dtype(model.get_base_model(), dtype)


def load_part(folder: Path, cls: str | type, model_types: tuple[str, ...] = (), **options: Any) -> Any:
    """A model (in `eval`), processor or tokenizer by its class.

    Args:
        folder: where it lies.
        cls: a class of `transformers` by its name, e.g. "CLIPModel", or a class of ours.
        model_types: what `config.json` may call the model; given for models, whose weights must then fit.
        options: handed to `from_pretrained`.

    Raises:
        ModelError: another kind of model, missing or foreign weights, damaged files.
    """
    import transformers

    name = cls if isinstance(cls, str) else cls.__name__
    if model_types:
        found = read_model_json(folder / "config.json").get("model_type")
        if found not in model_types:
            raise ModelError(f"model {folder} is of type '{found}'; {name} needs {' or '.join(model_types)}")
        # In float32 unless asked otherwise: transformers would take what the weights were saved in.
        options = {"dtype": "float32", **options, "use_safetensors": True, "output_loading_info": True}
    with quiet():
        try:
            made: Any = getattr(transformers, cls) if isinstance(cls, str) else cls
            loaded = made.from_pretrained(str(folder), **options)
        except Exception as error:  # noqa: BLE001 - a damaged folder fails in as many ways as there are families
            raise ModelError(f"{name} cannot be loaded from {folder}: {one_line(error)}") from None
    if not model_types:
        return loaded
    model, info = loaded
    lacking = _lacking(info)
    if lacking:
        raise ModelError(
            f"model {folder}: {len(lacking)} tensors of {name} are missing or have another shape, "
            f"first {lacking[0]}; it was saved as another class"
        )
    return model.eval()


def _lacking(info: Any) -> list[str]:
    """The tensors that a folder's weights lack or have in another shape, by what `from_pretrained` says of them."""
    return sorted(info.get("missing_keys", ())) + sorted(str(key) for key in info.get("mismatched_keys", ()))


def weights_folder(model_name: str | Path, published_as: str = "pytorch_model.bin") -> Path:
    """The local folder of a model, made sure to hold safetensors.

    Args:
        model_name: a folder, or a hub name; what the hub has as pickles only is converted into the user's cache.
        published_as: the pickle's usual name on the hub.

    Raises:
        ModelError: no such model, or none of its weights are safetensors; the message has the conversion command.
    """
    path = Path(model_name).expanduser()
    if path.is_file() and path.suffix in PICKLES:
        raise ModelError(f"{path} is a pickle, which is not read as it is; convert it: {convert_command(path)}")
    folder = resolve(model_name)
    if any(folder.glob("*.safetensors")):
        return folder
    if local_folder(model_name) is None:
        from pairsight.models.checkpoints.from_hub import converted_from_hub

        return converted_from_hub(str(model_name), published_as)
    pickles = sorted(file for file in folder.iterdir() if file.suffix in PICKLES)
    if not pickles:
        raise ModelError(f"model {model_name} holds no *.safetensors, nor a pickle such as {published_as}: no weights")
    raise ModelError(
        f"model {model_name} holds no *.safetensors but only the pickle {pickles[0].name}, which is not read as it is; "
        f"convert it, which runs none of its code: {convert_command(folder)}"
    )


def read_weights(folder: Path) -> "dict[str, torch.Tensor]":
    """All tensors of a folder's safetensors files, by name.

    Raises:
        ModelError: a file is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    state: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        try:
            state.update(load_file(file))
        except (OSError, SafetensorError) as error:
            raise ModelError(f"weights {file} cannot be read: {one_line(error)}") from None
    return state


ModelT = TypeVar("ModelT", bound=Model)
_KEPT: dict[Hashable, Model] = {}
"""Models that stay loaded when their stage ends, for machines with room for all models of a recipe at once."""


def load_or_reuse(key: Hashable, load: Callable[[], ModelT], kept: bool) -> ModelT:
    """The model under `key`: one that was kept, else loaded, and kept from now on if `kept`.

    Args:
        key: what distinguishes models, e.g. class, model_name and device.
        load: makes it.
        kept: whether it stays loaded.
    """
    if key in _KEPT:
        return _KEPT[key]  # type: ignore[return-value]
    model = load()
    if kept:
        _KEPT[key] = model
    return model


def keep(model: Model) -> None:
    """Note a loaded model that stays loaded until `forget_all`."""
    _KEPT[id(model)] = model


def forget_all() -> None:
    """Free every model that was kept."""
    for model in _KEPT.values():
        model.close()
    _KEPT.clear()
    release_memory()


def free_bytes(device: "torch.device") -> int:
    """Memory that is free on the device now; on a CPU by `/proc/meminfo`, or half of all where there is none.

    On a GPU what PyTorch keeps for its own next tensors counts as free, though the driver takes it for used.
    """
    if device.type == "cuda":
        import torch

        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + int(kept)
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:  # noqa: PTH123 - a pseudo-file
            fields = dict(line.split(":", 1) for line in lines)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def release_memory() -> None:
    """Give the GPU's memory back where dropped models held it; the CPU's comes back by itself."""
    import torch

    if torch.cuda.is_available():
        import gc

        gc.collect()
        torch.cuda.empty_cache()


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers to errors and without bars inside the block; what was set before comes back after it.

    Inside another such block it costs nothing: setting a level empties the caches of Python's logging, 2 ms.
    """
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    changes = verbosity != logging.ERROR
    if changes:
        logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if changes:
            logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
