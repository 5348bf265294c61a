"""Turns pairs and demonstrations into training examples; those that cannot be trained on are skipped and counted."""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from pairsight.errors import DataError, one_line
from pairsight.images.distort import make_distortion
from pairsight.images.source import ImageSource
from pairsight.models.local.processor import EncodedPrompt, completions_ids, encode, stop_ids
from pairsight.records import Completion, Demonstration, ImageRef, PreferencePair, Prompt
from pairsight.seeds import derived_seed
from pairsight.store.durable import remove_temporaries
from pairsight.store.encoding import encode as encode_record
from pairsight.store.lock import folder_lock
from pairsight.training.data.table import FORMAT, Catalogue, Names, TableWriter, TokenTable
from pairsight.training.families import Family, counted_positions, prompt_positions
from pairsight.training.tokens import (
    BlockNumbers,
    Ints,
    TokenPrompt,
    TokenSequence,
    blocks_of,
    content_key,
    symbols_of,
    token_example,
    units_of,
)
from pairsight.training.vision.units import ImageUnits, TextEncoder

_LOG = logging.getLogger("pairsight.training")
GIVEN_ON = "dataset"
"""`derived_from` of a completion that is trained on its own images, as the dataset gives it on these."""
_RECORDS_TOGETHER = 64
RECORDS_OF_A_PART = 2048
"""More records are tokenised in parts, each a file until all are joined: the same parts by any number of processes."""
_RECENT_PROMPTS = 256
"""Prompts whose tokens are remembered: pairs on one prompt follow each other."""


class Tokeniser:
    """Turns the prompts of one dataset into tokens and remembers what each was made from.

    Args:
        processor: from `load_processor`.
        model: the loaded model, used for positions only.
        family: from `describe(model)`.
        images: where the images are.
        cache_mb: memory for pixels and image features.
        catalogue: where prompts and image units are kept; None: in memory.
        text: of this processor and these images, where there is one already.
    """

    def __init__(
        self,
        processor: Any,
        model: Any,
        family: Family,
        images: ImageSource,
        cache_mb: int,
        *,
        catalogue: Catalogue | None = None,
        text: TextEncoder | None = None,
    ) -> None:
        self.units = ImageUnits(text or TextEncoder(processor, images), family.placeholder, cache_mb, catalogue)
        self._processor, self._model, self._family, self._images = processor, model, family, images
        self._cache_mb = cache_mb
        self._generation_config = getattr(model, "generation_config", None)
        self._blocks = BlockNumbers(self.units.names.__getitem__)
        self._recent: dict[Hashable, TokenPrompt] = {}

    def into(self, catalogue: Catalogue) -> "Tokeniser":
        """The same for another catalogue: prompts and units are numbered from 0."""
        return Tokeniser(
            self._processor, self._model, self._family, self._images, self._cache_mb, catalogue=catalogue,
            text=self.units.text,
        )  # fmt: skip

    @property
    def names(self) -> Names:
        """What identifies the units and blocks that were numbered."""
        return Names(self.units.names, self._blocks.names)

    @property
    def ends_completions(self) -> bool:
        """Whether the model names a token that ends a completion."""
        return bool(stop_ids(self._processor, self._generation_config))

    def prompt(self, prompt: Prompt) -> TokenPrompt:
        """A prompt's tokens; the same for the same messages and images, if they were asked for not long ago.

        Raises:
            DataError: a missing image, or marks that do not fit the images.
        """
        name = tuple((m.role, m.text, *(encode_record(ref) for ref in m.images)) for m in prompt.messages)
        if name not in self._recent:
            if len(self._recent) >= _RECENT_PROMPTS:
                del self._recent[next(iter(self._recent))]
            self._recent[name] = self._prompt(prompt)
        return self._recent[name]

    def _prompt(self, prompt: Prompt) -> TokenPrompt:
        number, encoded, parts = self.units.add(prompt)
        ids = np.array(encoded.input_ids, np.int64)
        unit, index = units_of(encoded, parts, ids, self._family.placeholder)
        block = blocks_of(encoded.token_inputs.get("token_type_ids"), self._family)
        block = np.full(len(ids), -1, np.int64) if block is None else block
        return TokenPrompt(
            symbols_T=self._blocks.put(symbols_of(ids, unit, index), block),
            input_ids_T=ids,
            positions_AT=self._positions(encoded),
            block_T=block,
            unit_T=unit,
            unit_index_T=index,
            number=number,
            key=content_key(encoded),
        )

    def completions(self, completions: Sequence[Completion]) -> list[Ints]:
        """Completions' token ids, with the end of the turn unless they were cut."""
        texts, reasons = [one.text for one in completions], [one.finish_reason for one in completions]
        made = completions_ids(self._processor, self._generation_config, texts, reasons)
        return [np.array(ids, np.int64) for ids in made]

    def separate_inputs(self, sequence: TokenSequence, padding: int = 0) -> dict[str, Tensor]:
        """Inputs of the model's own forward for one sequence, a batch of one, followed by masked tokens."""
        encoded = encode(self._processor, self.units.catalogue.prompt(sequence.prompt), self._images)
        count = len(sequence) - sequence.prompt_length
        inputs = {"input_ids": torch.from_numpy(sequence.input_ids_T)[None], **encoded.tensors}
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        suffix_type = {"token_type_ids": int(self._family.bidirectional == "prompt")}
        for name, values in encoded.token_inputs.items():
            inputs[name] = torch.tensor([values + [suffix_type.get(name, 0)] * count])
        if padding:
            inputs["attention_mask"] = pad(inputs["attention_mask"], (0, padding))
            inputs["input_ids"] = pad(inputs["input_ids"], (0, padding), value=int(inputs["input_ids"][0, -1]))
            for name in encoded.token_inputs:
                inputs[name] = torch.cat([inputs[name], inputs[name][:, -1:].expand(-1, padding)], dim=1)
        return inputs

    def _positions(self, encoded: EncodedPrompt) -> Ints:
        if not self._family.rope_index:
            return counted_positions(self._family, len(encoded.input_ids) + 1)
        extra = dict(encoded.tensors)
        for name, values in encoded.token_inputs.items():
            extra[name] = torch.tensor(values)
        found = prompt_positions(self._model, self._family, torch.tensor(encoded.input_ids), extra)
        return counted_positions(self._family, len(encoded.input_ids) + 1) if found is None else found.numpy()


Record = PreferencePair | Demonstration


@dataclass(frozen=True, slots=True)
class Rules:
    """What becomes an example.

    Args:
        max_length: tokens of prompt and completion.
        fail_on_overlong: raise an error for a prompt that is too long, instead of skipping it.
        min_completions: what the losses need of an example.
        num_images: image sets the losses need: the prompt's own and `contrast_images`.
        contrast: the distortion that makes contrast images for records without any; seeded by the record's id.
    """

    max_length: int
    fail_on_overlong: bool
    min_completions: int
    num_images: int
    contrast: str

    def file_name(self, family: Family, base_fingerprint: str, data_sha256: str) -> str:
        """The name of the file of the examples that these rules make of some data, with a model's processor."""
        libraries = [version(name) for name in ("transformers", "tokenizers")]
        determining = [FORMAT, libraries, base_fingerprint, data_sha256, asdict(family), asdict(self)]
        return f"{hashlib.sha256(json.dumps(determining).encode()).hexdigest()[:32]}.safetensors"


def prepare(
    records: Iterable[Record],
    tokeniser: Tokeniser,
    rules: Rules,
    table: TableWriter,
    advance: Callable[[], None] = lambda: None,
    *,
    first: int | None = None,
) -> None:
    """Tokenise records into a table.

    A completion that does not fit is cut at its end; a prompt that leaves no room for one token is skipped or an
    error. Empty completions and rejected ones equal to the chosen are dropped; a pair that loses all is skipped.

    Args:
        records: pairs, demonstrations, or both; read once, in order.
        tokeniser: of the model, with the table as its catalogue.
        rules: what becomes an example.
        table: what is made.
        advance: called once per record.
        first: the number of the first record, where they are a part of all; None: they are all.

    Raises:
        DataError: a prompt too long, ids used twice, or too few contrast images.
    """
    skipped: Counter[str] = Counter()
    cut = 0
    for block in _in_blocks(records, first or 0):
        texts = [_texts(record) for _, record in block]
        tokens = iter(tokeniser.completions([one for those in texts for one in those]))
        for (number, record), those in zip(block, texts, strict=True):
            made = _example(record, [(one, next(tokens)) for one in those], tokeniser, rules, table)
            if isinstance(made, str):
                skipped[made] += 1
            else:
                example = token_example(record.id, made.prompts, made.completions, record.weight, made.given_on)
                own = [prompt.number for prompt in made.prompts]
                others = {k: prompt.number for k, prompt in made.given_on.items()}
                table.add_example(number, example, own, made.completions, others)
                cut += made.num_cut
            advance()
    table.finish(skipped, cut, None if first is None else tokeniser.names)


def of_different_ids(records: Iterable[Record]) -> Iterator[Record]:
    """Records as they come; an id that comes twice is an error."""
    ids: set[int] = set()
    for record in records:
        short = int.from_bytes(hashlib.sha256(record.id.encode("utf-8", "surrogatepass")).digest()[:8], "big")
        if short in ids:
            raise DataError(f"'{record.id}' is the id of two examples; ids must be unique")
        ids.add(short)
        yield record


def _in_blocks(records: Iterable[Record], first: int) -> Iterator[list[tuple[int, Record]]]:
    """Numbered records, as many at a time as give a tokenizer's threads enough to do."""
    numbered = iter(enumerate(records, first))
    while block := list(islice(numbered, _RECORDS_TOGETHER)):
        yield block


def _texts(record: Record) -> list[Completion]:
    """The completions with a text, the chosen first; none where the chosen has none."""
    if isinstance(record, Demonstration):
        completions = [record.completion]
    else:
        completions = [record.chosen, *(one for one in record.rejected if one.text.strip())]
    return completions if completions[0].text.strip() else []


@dataclass(frozen=True, slots=True)
class _Made:
    """A record's prompts, its own first, its completions as kept, those given on other images, and how many are cut."""

    prompts: list[TokenPrompt]
    completions: list[Ints]
    given_on: dict[int, TokenPrompt]
    num_cut: int


def _example(
    record: Record, completions: list[tuple[Completion, Ints]], tokeniser: Tokeniser, rules: Rules, table: TableWriter
) -> _Made | str:
    """What a record becomes, or why it is skipped.

    Training sees the prompt's own images with all but what a dataset gives on others (see `GIVEN_ON`).
    """
    if not completions:
        return "empty_chosen"
    if rules.num_images > 1 and not record.prompt.images:
        return "no_image_to_contrast"
    prompts = [tokeniser.prompt(prompt) for prompt in _prompts(record, rules)]
    others = [
        tokeniser.prompt(record.prompt.with_images(one.images))
        if one.images is not None and one.derived_from == GIVEN_ON
        else None
        for one, _ in completions
    ]
    for prompt in (*prompts, *others):
        if prompt is not None:
            table.add_tokens(prompt)
    room = rules.max_length - max(len(prompt) for prompt in (*prompts, *others) if prompt is not None)
    if room < 1:
        if rules.fail_on_overlong:
            raise DataError(
                f"'{record.id}': its prompt has {rules.max_length - room} tokens, max_length is {rules.max_length}; "
                "raise max_length, or set overlong=skip"
            )
        return "overlong_prompt"
    kept, given_on = [completions[0][1][:room]], dict[int, TokenPrompt]()
    for (_, ids), other in zip(completions[1:], others[1:], strict=True):
        if other is not None:
            given_on[len(kept)] = other
        if other is not None or not np.array_equal(ids[:room], kept[0]):
            kept.append(ids[:room])
    cut = sum(len(ids) > room for _, ids in completions)
    return _Made(prompts, kept, given_on, cut) if len(kept) >= rules.min_completions else "identical_or_empty"


@dataclass(frozen=True, slots=True)
class Ingredients:
    """What tokens are made from besides the records; it travels to other processes.

    Args:
        model: a folder or hub name.
        family: of the model.
        generation_config: the model's, for the tokens that end a completion.
        images: where the records' images are.
        rules: what becomes an example.
    """

    model: str
    family: Family
    generation_config: Any
    images: ImageSource
    rules: Rules


Advance = Callable[[int, int], None]
"""Is told numbers of records: of those tokenised, and of those that an earlier start tokenised."""
Many = Callable[[Path, Iterable[Record], int, Tokeniser, Ingredients, Advance], None]
"""Given file, records, their number, all else, and whom to tell."""


def prepared(
    file: Path,
    records: Sequence[Record],
    tokeniser: Tokeniser,
    made_from: Ingredients,
    *,
    in_parts: Many,
    advance: Advance = lambda done, reused: None,
) -> TokenTable:
    """The examples of records: of a file, if an earlier start made it, else made now.

    Args:
        file: named after all that its content depends on; a damaged one is made again.
        records: as in `prepare`.
        tokeniser: of this process.
        made_from: all else, so that other processes can make theirs.
        in_parts: tokenises more than `RECORDS_OF_A_PART` records.
        advance: is told how far it is.

    Raises:
        DataError: as `prepare`.
        RunError: the disk is full or failed, or a process was killed.
    """
    family = made_from.family
    table = _read(file, family)
    if table is None:
        with folder_lock(file.parent):  # another training of this run may be making it
            table = _read(file, family)
            if table is None:
                remove_temporaries(file.parent, file.name)
                checked = of_different_ids(records)
                if len(records) <= RECORDS_OF_A_PART:
                    writer = TableWriter(file, family)
                    prepare(checked, tokeniser.into(writer), made_from.rules, writer, lambda: advance(1, 0))
                else:
                    in_parts(file, checked, len(records), tokeniser, made_from, advance)
                return TokenTable(file, family)
    advance(0, len(records))
    return table


def _read(file: Path, family: Family) -> TokenTable | None:
    if not file.is_file():
        return None
    try:
        return TokenTable(file, family)
    except (OSError, ValueError, LookupError) as error:
        _LOG.warning("%s is not read (%s): its examples are tokenised again", file, one_line(error))
        return None


def _prompts(record: Record, rules: Rules) -> list[Prompt]:
    """The prompt, then the same under each contrast image set."""
    count = rules.num_images - 1
    given = record.contrast_images if isinstance(record, PreferencePair) else ()
    if given and len(given) < count:
        raise DataError(f"'{record.id}' has {len(given)} contrast images and this loss needs {count}")
    sets: list[tuple[ImageRef, ...]] = [(image,) for image in given[:count]] or [
        tuple(
            ImageRef(image.sha256, make_distortion(rules.contrast, derived_seed(record.id, rules.contrast, n, index)))
            for index, image in enumerate(record.prompt.images)
        )
        for n in range(count)
    ]
    return [record.prompt, *(record.prompt.with_images(images) for images in sets)]
