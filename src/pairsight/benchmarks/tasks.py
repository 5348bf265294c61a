"""The benchmarks to evaluate, with their files and images, read and checked before any model is loaded."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from pairsight.benchmarks.files.official import sha256_of
from pairsight.benchmarks.protocol import Benchmark, Sample
from pairsight.benchmarks.scoring import check_unique
from pairsight.config import BaseConfig
from pairsight.errors import ConfigError, DataError, did_you_mean
from pairsight.images.load import open_image
from pairsight.images.source import FileImages, ImageSource
from pairsight.models.protocols import Sampling
from pairsight.records import IMAGE_MARK, ImageRef, Prompt
from pairsight.registry import benchmarks as registered
from pairsight.store.blobs import BlobStore

if TYPE_CHECKING:
    from PIL.Image import Image


_UNVERIFIED = "unseen:"


class NamedImages:
    """Accepts any image name or bytes without verifying them, and collects the names."""

    def __init__(self) -> None:
        self.names: dict[str, ImageRef] = {}

    def ref(self, name: str, *others: str) -> ImageRef:
        """A reference that holds only the name; all questions about an image share one object."""
        for each in (name, *others):
            if each not in self.names:
                self.names[each] = ImageRef(_UNVERIFIED + each)
        return self.names[name]

    def add(self, data: bytes, name: str) -> ImageRef:
        """A reference that holds only the name; the bytes are not stored."""
        return ImageRef(_UNVERIFIED + name)


class CheckedImages:
    """Images verified beforehand; embedded images are verified and stored as the run's blobs.

    Args:
        checked: name -> reference, or what is wrong with the image.
        blobs: where embedded images are stored; None: they are only verified.
        skip_bad: return an unverified reference (see `unverified_name`) for a bad image instead of raising.
    """

    def __init__(self, checked: Mapping[str, ImageRef | DataError], blobs: BlobStore | None, skip_bad: bool) -> None:
        self._checked = checked
        self._blobs = blobs
        self._skip_bad = skip_bad
        self.errors: dict[str, DataError] = {}

    def ref(self, name: str, *others: str) -> ImageRef:
        """The first verified image of these names; DataError if all are bad and bad images are not skipped."""
        errors = []
        for each in (name, *others):
            found = self._checked[each]
            if isinstance(found, ImageRef):
                return found
            errors.append(found)
        return self._bad(name, errors[0])

    def add(self, data: bytes, name: str) -> ImageRef:
        """Verify and store an embedded image."""
        try:
            picture = open_image(data, name)
        except DataError as error:
            return self._bad(name, error)
        picture.close()
        if self._blobs is None:
            return ImageRef(_UNVERIFIED + name)
        return self._blobs.add_bytes(data, _extension(data))

    def _bad(self, name: str, error: DataError) -> ImageRef:
        if not self._skip_bad:
            raise DataError(f"{error}; --on-error skip leaves such questions out", error.reason)
        self.errors[name] = error
        return ImageRef(_UNVERIFIED + name)


def unverified_name(ref: ImageRef) -> str | None:
    """The name of an image that is bad or was not verified; None for a verified one."""
    return ref.sha256.removeprefix(_UNVERIFIED) if ref.sha256.startswith(_UNVERIFIED) else None


class EvaluationImages:
    """All images of an evaluation as one `ImageSource`: the users' folders, then the evaluation's blobs."""

    def __init__(self, folders: Sequence[FileImages], blobs: BlobStore) -> None:
        self._sources: tuple[ImageSource, ...] = (*folders, blobs)

    def path(self, ref: ImageRef) -> Path:
        """The file of an image."""
        return self._source(ref).path(ref)

    def open(self, ref: ImageRef) -> "Image":
        """The image as upright RGB."""
        return self._source(ref).open(ref)

    def _source(self, ref: ImageRef) -> ImageSource:
        plain = ImageRef(ref.sha256)
        for source in self._sources:
            try:
                source.path(plain)
            except DataError:
                continue
            return source
        raise DataError(f"image {ref.sha256[:12]}… is not in any images folder", reason="missing_image")


def image_name(data: bytes) -> str:
    """A short name for embedded image bytes."""
    return hashlib.sha256(data).hexdigest()[:16]


def _extension(data: bytes) -> str:
    kinds = {b"\x89PNG": ".png", b"GIF8": ".gif", b"RIFF": ".webp", b"BM": ".bmp"}
    return next((extension for start, extension in kinds.items() if data.startswith(start)), ".jpg")


class AskingOptions(BaseConfig):
    """How questions are asked: options of every benchmark beside its own; what is not given is the benchmark's."""

    temperature: float | None = Field(None, ge=0, le=5, description="of the answers; 0 is greedy")
    prompt_suffix: str | None = Field(None, description="text added to the end of each question; empty for none")
    max_new_tokens: int | None = Field(None, ge=1, description="the longest answer in tokens")


@dataclass(frozen=True, slots=True)
class BenchmarkTask:
    """One benchmark to run: its name in the results, its file or folder, and overrides of its settings.

    `temperature`, `prompt_suffix` and `max_new_tokens` None: the benchmark's; `images` None: the evaluation's folder.
    """

    name: str
    benchmark: Benchmark
    path: Path
    temperature: float | None = None
    prompt_suffix: str | None = None
    images: Path | None = None
    max_new_tokens: int | None = None

    @property
    def sampling(self) -> Sampling:
        """How answers are generated."""
        asked = {"temperature": self.temperature, "max_new_tokens": self.max_new_tokens}
        return self.benchmark.sampling.model_copy(update={name: one for name, one in asked.items() if one is not None})

    def answered_by(self, sample: Sample) -> Sampling | None:
        """How a sample is answered: those for which this is equal share one stage; None: options are ranked by
        likelihood.
        """
        if self.benchmark.ranks_options:
            return None
        if sample.temperature is None or self.temperature is not None:
            return self.sampling
        return self.sampling.model_copy(update={"temperature": sample.temperature})

    @property
    def suffix(self) -> str:
        """The text added to the end of each question."""
        return self.benchmark.prompt_suffix if self.prompt_suffix is None else self.prompt_suffix

    def with_suffix(self, prompt: Prompt) -> Prompt:
        """The prompt with the suffix at the end of its last message, unless the message already ends with it."""
        last = prompt.messages[-1]
        if not self.suffix or last.text.endswith(self.suffix):
            return prompt
        return replace(prompt, messages=(*prompt.messages[:-1], replace(last, text=last.text + self.suffix)))


@dataclass(frozen=True, slots=True)
class LoadedTask:
    """A task with its file's hash, its groups, and the samples that cannot be asked (id -> reason)."""

    task: BenchmarkTask
    sha256: str
    groups: tuple[tuple[Sample, ...], ...]
    errors: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ReadTask:
    """A task whose file was read: its hash and length, and the images it names (a reference or an error for each)."""

    task: BenchmarkTask
    sha256: str
    num_groups: int
    found: Mapping[str, ImageRef | DataError]
    source: FileImages | None


def make_benchmark(name: str, options: Mapping[str, object] | None = None) -> Benchmark:
    """The benchmark called `name` (or at `file.py:Class`), built with its options.

    Raises:
        ConfigError: an unknown name or option, or a class that is not a benchmark.
    """
    benchmark: Benchmark = registered.get(name).parse(options or {}, where=f"benchmark {name}")
    if not benchmark.directions():
        raise ConfigError(f"benchmark '{name}' names no metrics; see docs/add-a-benchmark.md")
    return benchmark


def make_tasks(
    benchmarks: Mapping[str, str | Path],
    options: Mapping[str, Mapping[str, object]] | None = None,
    *,
    temperature: float | None = None,
    prompt_suffix: str | None = None,
) -> tuple[BenchmarkTask, ...]:
    """The tasks of `NAME=PATH` settings.

    Args:
        benchmarks: a registered name or `file.py:Class` -> the official file or folder.
        options: name -> the benchmark's own options, and those of `AskingOptions`.
        temperature: overrides that of all benchmarks whose options do not say it.
        prompt_suffix: overrides that of all benchmarks.

    Raises:
        ConfigError: an unknown benchmark or option, or options for a benchmark that is not among `benchmarks`.
    """
    for name in options or {}:
        if name not in benchmarks:
            raise ConfigError(
                f"benchmark_options: '{name}' is not one of the benchmarks{did_you_mean(name, list(benchmarks))}"
            )
    tasks = []
    for name, path in benchmarks.items():
        given = (options or {}).get(name) or {}
        asked = _asked(name, given)
        own = registered.get(name).model_fields
        benchmark = make_benchmark(
            name, {one: given[one] for one in given if one in own or one not in AskingOptions.model_fields}
        )
        if benchmark.ranks_options and (unused := [one for one in asked.given() if one != "prompt_suffix"]):
            raise ConfigError(f"benchmark {name}: {unused[0]} changes nothing, its options are ranked by likelihood")
        tasks.append(
            BenchmarkTask(
                benchmark.name if ".py:" in name else name,
                benchmark,
                Path(path),
                temperature if asked.temperature is None else asked.temperature,
                prompt_suffix if asked.prompt_suffix is None else asked.prompt_suffix,
                max_new_tokens=asked.max_new_tokens,
            )
        )
    return tuple(tasks)


def _asked(name: str, options: Mapping[str, object]) -> AskingOptions:
    """How a benchmark is asked, by its options.

    Raises:
        ConfigError: an option that it does not have, with the nearest known one, or a value out of range.
    """
    fields, own_fields = AskingOptions.model_fields, registered.get(name).model_fields
    for option in options:
        if option not in fields and option not in own_fields:
            known = [*own_fields, *fields]
            raise ConfigError(f"benchmark {name}: unknown option '{option}'{did_you_mean(option, known)}")
    asked = {option: value for option, value in options.items() if option in fields and option not in own_fields}
    if asked.get("prompt_suffix", "") is None:  # `prompt_suffix=` is YAML for nothing
        asked["prompt_suffix"] = ""
    return AskingOptions.parse(asked, f"benchmark {name}")


def load_named(task: BenchmarkTask, limit: int | None = None) -> tuple[LoadedTask, NamedImages]:
    """Read a task's file without opening images: its groups, and the names of its images.

    Args:
        task: the task.
        limit: the maximum number of groups; None: all.

    Raises:
        DataError: the file is missing or bad, or two samples have one id.
    """
    images = NamedImages()
    groups: list[tuple[Sample, ...]] = []
    for group in task.benchmark.load(task.path, images):
        if limit is not None and len(groups) == limit:
            break
        groups.append(group)
    check_unique(task.name, groups)
    return LoadedTask(task, sha256_of(task.path), tuple(groups), {}), images


def read_tasks(
    tasks: Sequence[BenchmarkTask], folder: Path | None, *, limit: int | None = None, skip_bad: bool = False
) -> list[ReadTask]:
    """Read all tasks' files, then verify and hash the images they name; nothing is written.

    Args:
        tasks: the tasks.
        folder: the images' folder; None: the folder of each task's file.
        limit: the maximum number of groups per task; None: all.
        skip_bad: record errors of images instead of raising.

    Raises:
        DataError: a bad file, record or image, with file, line and id.
    """
    read, sources = [], dict[Path, FileImages]()
    for task in tasks:
        first, named = load_named(task, limit)
        root = task.images or folder or (task.path if task.path.is_dir() else task.path.parent)
        if named.names and root not in sources:
            sources[root] = FileImages(root)
        found = sources[root].refs(named.names) if named.names else {}
        one = ReadTask(task, first.sha256, len(first.groups), found, sources[root] if named.names else None)
        if not skip_bad and any(isinstance(ref, DataError) for ref in found.values()):
            _groups(one, CheckedImages(found, None, skip_bad))  # raises with file and line of the first bad image
        read.append(one)
    return read


def load_tasks(read: Sequence[ReadTask], blobs: BlobStore, *, skip_bad: bool = False) -> list[LoadedTask]:
    """The groups of all tasks with their images.

    Args:
        read: the tasks as read.
        blobs: where embedded images are stored.
        skip_bad: list the samples of a bad image in `LoadedTask.errors` instead of raising.

    Raises:
        DataError: a bad embedded image, with file, line and id.
    """
    loaded = []
    for one in read:
        checked = CheckedImages(one.found, blobs, skip_bad)
        groups = _groups(one, checked)
        loaded.append(LoadedTask(one.task, one.sha256, tuple(groups), _bad_samples(groups, checked)))
    return loaded


def sources_of(read: Sequence[ReadTask]) -> list[FileImages]:
    """The distinct folders of the tasks' images."""
    return list(dict.fromkeys(one.source for one in read if one.source is not None))


def _groups(read: ReadTask, images: CheckedImages) -> list[tuple[Sample, ...]]:
    return list(islice(read.task.benchmark.load(read.task.path, images), read.num_groups))


def _bad_samples(groups: Sequence[tuple[Sample, ...]], images: CheckedImages) -> dict[str, str]:
    bad = {}
    for group in groups:
        for sample in group:
            names = [unverified_name(image) for image in sample.prompt.images]
            reasons = [str(images.errors[name]) for name in names if name is not None]
            if reasons:
                bad[sample.id] = reasons[0]
            elif not sample.prompt.messages[-1].text.replace(IMAGE_MARK, "").strip():
                bad[sample.id] = "the question is empty"
    return bad
