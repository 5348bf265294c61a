"""Which checkpoint a folder holds, and the conversion that is asked for or follows from that."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pairsight.errors import ConfigError, ModelError, did_you_mean
from pairsight.models.checkpoints.convert import Converted, to_safetensors, written_folder
from pairsight.models.checkpoints.files import Planned
from pairsight.models.checkpoints.llava import (
    OriginalConfig,
    is_original,
    open_tower,
    original_weights,
    write_transformers,
)
from pairsight.models.checkpoints.llava_lora import (
    LowRank,
    is_original_lora,
    merged,
    write_original_lora,
    write_peft,
)
from pairsight.models.checkpoints.llava_original import is_transformers_llava, write_original

LAYOUTS = ("safetensors", "transformers", "llava")
"""What a checkpoint can become: the same in safetensors; a folder of transformers or peft; LLaVA's authors' layout."""


@dataclass(frozen=True, slots=True)
class Conversion:
    """What is asked for.

    Args:
        source: a folder, or one pickled file.
        target: a new or empty folder.
        to: one of `LAYOUTS`; None: transformers for the authors' layout, else safetensors.
        base: the model below an adapter.
        vision_tower: a folder, or the name that the authors' code shall load.
    """

    source: Path
    target: Path
    to: str | None = None
    base: str | None = None
    vision_tower: str | None = None

    def run(self) -> Converted:
        """Convert.

        Raises:
            ConfigError: an unknown layout, or an option that changes nothing.
            ModelError: a checkpoint that cannot be converted so.
            RunError: the target is not empty, or cannot be written.
        """
        if self.to is not None and self.to not in LAYOUTS:
            raise ConfigError(f"--to '{self.to}' is unknown{did_you_mean(self.to, LAYOUTS)}")
        lora, full = is_original_lora(self.source), is_original(self.source)
        wanted = self.to or ("transformers" if lora or full else "safetensors")
        if wanted == "transformers" and (lora or full):
            return self._lora_to_transformers() if lora else self._to_transformers()
        if wanted == "llava" and not (lora or full):
            return self._to_llava()
        if wanted == "safetensors":
            self._refuse("base", "vision_tower")
            return to_safetensors(self.source, self.target)
        there = (
            "has the layout of LLaVA's authors already" if lora or full else "is not in the layout of LLaVA's authors"
        )
        raise ModelError(f"{self.source} {there}, so --to {wanted} changes nothing; see --to safetensors")

    def _to_transformers(self) -> Converted:
        self._refuse("base")
        original, weights = OriginalConfig.read(self.source), original_weights(self.source)
        own = any(name.startswith("model.vision_tower.") for name in weights)
        tower = open_tower(self.vision_tower, original, self.source, own)
        with written_folder(self.target) as draft:
            planned = write_transformers(original, weights, tower, self.source, draft)
        notes = ["its chat template and the padding of its images are those of LLaVA-1.5's authors"]
        if tower.differs(weights):
            named = self.vision_tower or original.tower
            notes.append(f"the tower of {named} is used, as by the authors' code; SRC holds another one")
        return self._done(planned, *notes)

    def _lora_to_transformers(self) -> Converted:
        adapter = LowRank.read(self.source)
        if self.base is None:
            raise ConfigError(
                f"{self.source} holds LoRA weights: give the model below them as --base, a LLaVA-1.5 of transformers "
                "(an adapter for it is written), or Vicuna or a LLaVA-1.5 in its authors' layout (the merged model is)"
            )
        base = Path(self.base).expanduser()
        if not base.is_dir():
            raise ModelError(f"there is no model folder {base}")
        if is_transformers_llava(base):
            self._refuse("vision_tower")
            with written_folder(self.target) as draft:
                planned = write_peft(adapter, str(base.resolve()), draft)
            return self._done(planned, f"an adapter for {base}: evaluate it with --model {base} --adapter NAME=DST")
        config = self.source if is_original(self.source) else base
        if not is_original(config):
            raise ModelError(f"neither {self.source} nor {base} has a config.json of LLaVA-1.5 (mm_vision_tower)")
        original, weights = OriginalConfig.read(config), merged(adapter, original_weights(base))
        own = any(name.startswith("model.vision_tower.") for name in weights)
        tower = open_tower(self.vision_tower, original, base, own)
        with written_folder(self.target) as draft:
            planned = write_transformers(original, weights, tower, base, draft)
        return self._done(planned, f"{base} with the adapter merged, in float32, rounded to the type of its weights")

    def _to_llava(self) -> Converted:
        if (self.source / "adapter_config.json").is_file():
            with written_folder(self.target) as draft:
                planned = write_original_lora(self.source, self.base, self.vision_tower, draft)
            return self._done(
                planned,
                "for the authors' code, whose base is Vicuna or LLaVA-1.5 in their layout; there the folder's name has "
                "to contain 'llava' and 'lora'",
            )
        if not is_transformers_llava(self.source):
            raise ModelError(f"{self.source} is not a LLaVA-1.5 of transformers, nor an adapter for one")
        self._refuse("base")
        with written_folder(self.target) as draft:
            planned = write_original(self.source, self.vision_tower, draft)
        notes = ["the authors' code loads the vision tower that its config names, not the one in these weights"]
        if not (self.source / "tokenizer.model").is_file():
            notes.append("the authors' code needs the tokenizer.model of LLaMA, which is not in SRC: copy it into DST")
        return self._done(planned, *notes)

    def _done(self, planned: Sequence[Planned], *notes: str) -> Converted:
        return Converted(self.target, len(planned), sum(one.num_bytes for one in planned), notes)

    def _refuse(self, *names: str) -> None:
        """Refuse options that change nothing for this checkpoint."""
        given = {"base": self.base, "vision_tower": self.vision_tower}
        for name in names:
            if given[name] is not None:
                raise ConfigError(f"--{name.replace('_', '-')} changes nothing for this checkpoint; leave it out")
