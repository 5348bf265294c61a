"""Names -> recipes, strategies, losses, benchmarks, formats. Built-ins are found by module, plug-ins by entry point.

docs/extend.md shows how each kind is added.

A user's own piece comes in by `pip` (an entry point in the group `pairsight.<kind>`) or straight from a file:
wherever a name is asked for, `path/to/file.py:Attribute` works too. Code is loaded only from files that the user names
in this call (`plugins`): a config, a run folder or a data file that names one is text.
"""

import hashlib
import importlib
import importlib.util
import logging
import re
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from pairsight.errors import ConfigError, did_you_mean

_LOG = logging.getLogger("pairsight")
PLUGIN = "pairsight_plugin_"
"""How the names of modules begin that were loaded from files."""

_NAMED: ContextVar[frozenset[Path]] = ContextVar("pairsight_plugins", default=frozenset())
"""The files that the user named in this call."""
_OF_A_WORKER: set[Path] = set()
"""In a worker process: the files that the process which started it has loaded."""
_PYTHON_FILE = re.compile(r"\.py(?=:|\Z)")


@dataclass(frozen=True, slots=True)
class NamedPiece:
    """A piece that is not made yet, such as a strategy: its name, or `file.py:Class`, and its own options."""

    name: str
    options: Mapping[str, object] = field(default_factory=dict)


class Registry:
    """A table of one kind of pieces: name -> "module:attribute", imported only when asked for.

    Args:
        kind: what the pieces are.
        built_in: name -> target.
        needs: attributes that a piece must have.
        expected: what a piece must be, for the error about one that is something else or lacks them.
        base: "module:Class" that a piece must be derived from.
        module: a module whose functions that have `needs` are built in under their own names.
    """

    def __init__(
        self,
        kind: str,
        built_in: dict[str, str],
        *,
        needs: tuple[str, ...] = (),
        expected: str = "",
        base: str = "",
        module: str = "",
    ) -> None:
        self.kind = kind
        self._needs = needs
        self._expected = expected
        self._base = base
        self._targets = dict(built_in)
        self._module = module
        self._plugins_read = False

    def names(self) -> list[str]:
        """All known names, plug-ins included, sorted."""
        self._read_plugins()
        return sorted(self._targets)

    def in_order(self) -> Iterator[tuple[str, Any]]:
        """Each name and its piece, the built-in ones first, as they are listed; each is imported when it is reached."""
        self._read_plugins()
        return ((name, self.get(name)) for name in list(self._targets))

    def add(self, name: str, target: str) -> None:
        """Register `target` ("module:attribute") under `name`; a name is given once."""
        self._read_module()
        if self._targets.get(name, target) != target:
            raise ConfigError(f"{self.kind} '{name}' is already registered as {self._targets[name]}")
        self._targets[name] = target

    def get(self, name: str) -> Any:
        """The piece called `name`, or found at `file.py:Attribute`.

        Raises:
            ConfigError: an unknown name (the message says the nearest known one and lists all), a piece of another
                kind, such as a plain function where a class is expected, or a file that the user did not name in this
                call.
        """
        if is_file_name(name):
            return self._checked(name, _from_file(self.kind, name))
        self._read_plugins()
        if name not in self._targets:
            raise ConfigError(f"unknown {self.kind} '{name}'{did_you_mean(name, self.names())}")
        module, _, attribute = self._targets[name].partition(":")
        try:
            piece = _target(self._targets[name])
        except AttributeError:
            raise ConfigError(f"{self.kind} '{name}': {module} defines no '{attribute}'") from None
        except ModuleNotFoundError as error:
            raise ConfigError(f"{self.kind} '{name}': {module} cannot be imported ({error})") from error
        return self._checked(name, piece)

    def _checked(self, name: str, piece: Any) -> Any:
        missing = [attribute for attribute in self._needs if not hasattr(piece, attribute)]
        missing += sorted(getattr(piece, "__abstractmethods__", ()))
        derived = not self._base or (isinstance(piece, type) and issubclass(piece, _target(self._base)))
        if missing or not derived:
            what = f"the class {piece.__name__}" if isinstance(piece, type) else f"a {type(piece).__name__}"
            lacking = f" without {', '.join(missing)}" if derived else ""
            raise ConfigError(
                f"{self.kind} '{name}' is {what}{lacking}; it must be {self._expected}; see docs/extend.md"
            )
        return piece

    def _read_module(self) -> None:
        """Find what the module defines; it is imported here, so that `pairsight --help` does not."""
        if self._module:
            for name, piece in vars(importlib.import_module(self._module)).items():
                own = getattr(piece, "__module__", "") == self._module
                if own and all(hasattr(piece, attribute) for attribute in self._needs):
                    self._targets.setdefault(name, f"{self._module}:{name}")
            self._module = ""

    def _read_plugins(self) -> None:
        if not self._plugins_read:
            self._plugins_read = True
            self._read_module()
            for point in entry_points(group=f"pairsight.{self.kind}"):
                if self._targets.setdefault(point.name, point.value) != point.value:
                    package = point.dist.name if point.dist else "an installed package"
                    _LOG.warning(
                        "%s '%s' of %s is ignored: the name is taken by %s",
                        *(self.kind, point.name, package, self._targets[point.name]),
                    )


def _target(named: str) -> Any:
    """What "module:attribute" names; the module is imported."""
    module, _, attribute = named.partition(":")
    return getattr(importlib.import_module(module), attribute)


def is_file_name(name: str) -> bool:
    """Whether a name is `file.py:Attribute`."""
    return ".py:" in name


def plain_name(name: str) -> str:
    """What a piece is called in names of folders, systems and columns: `Attribute` for `file.py:Attribute`."""
    return name.rpartition(":")[2] if is_file_name(name) else name


BASE = "base"
"""What evaluations call the model that adapters are compared with; no adapter is named so."""
ALLOWED_IN_A_NAME = "use letters, digits, . _ + -, and no dot first"


def is_folder_name(name: str) -> bool:
    """Whether a folder can have this name: it stays inside the folder that it is made in, and is not hidden."""
    return re.fullmatch(r"[\w+-][\w.+-]*", name) is not None


def is_adapter_name(name: str) -> bool:
    """Whether an adapter may have this name: it becomes part of names of files, and `base` is reserved."""
    return name != BASE and is_folder_name(name)


@contextmanager
def plugins(*words: Any) -> Iterator[None]:
    """While inside, pieces may be loaded from the Python files that these words name.

    Args:
        words: what the user wrote in this call: `file.py`, `file.py:Attribute`, or lists and mappings with such names
            in them. Files that were named before stay named.
    """
    token = _NAMED.set(_NAMED.get())
    try:
        name_plugins(*words)
        yield
    finally:
        _NAMED.reset(token)


def name_plugins(*words: Any) -> None:
    """As `plugins`, but until the `plugins` around it, or the program, ends."""
    _NAMED.set(_NAMED.get() | {Path(file).resolve() for file in _files(words)})


def _files(words: Any) -> Iterator[str]:
    """The Python files named in text, lists and mappings (keys and values)."""
    if isinstance(words, Path) or (isinstance(words, str) and "\0" not in words):
        yield from (str(words)[: found.end()] for found in _PYTHON_FILE.finditer(str(words)))
    elif isinstance(words, Mapping):
        for name, value in words.items():
            yield from _files(name)
            yield from _files(value)
    elif isinstance(words, list | tuple):
        for one in words:
            yield from _files(one)


def _from_file(kind: str, name: str) -> Any:
    file, _, attribute = name.rpartition(":")
    if "\0" in file or Path(file).resolve() not in _NAMED.get() | _OF_A_WORKER:
        raise ConfigError(
            f"{kind} '{name}' is code, and only a file names it, not this command; if you trust it, add "
            f"--plugin {shlex.quote(file)}"
        )
    if not Path(file).is_file():
        raise ConfigError(f"{kind} '{name}': there is no file {file}")
    try:
        module = load_file(Path(file))
    except Exception as error:  # whatever a user's file raises
        what = " ".join(f"{type(error).__name__}: {error}".split())
        raise ConfigError(f"{kind} '{name}': {file} cannot be imported ({what})") from error
    if not hasattr(module, attribute):
        raise ConfigError(f"{kind} '{name}': {file} defines no '{attribute}'")
    return getattr(module, attribute)


def load_file(file: Path) -> ModuleType:
    """The module in a file, loaded once for each content; its name follows from the content, on every machine.

    So what it defines can be pickled, and unpickled by a process that has loaded the same file.
    """
    name = f"{PLUGIN}{file.stem}_{hashlib.sha256(file.read_bytes()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file.resolve())
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def load_files(files: Iterable[Path]) -> None:
    """In a worker process: load what the process that started it has loaded, and let stages find their pieces there."""
    for file in files:
        load_file(file)
        _OF_A_WORKER.add(file.resolve())


def loaded_files() -> tuple[Path, ...]:
    """The files that pieces were loaded from so far: what another process must load before it unpickles them."""
    return tuple(Path(str(m.__file__)) for name, m in list(sys.modules.items()) if name.startswith(PLUGIN))


recipes = Registry(
    "recipe",
    {
        "seva": "pairsight.recipes.seva:SeVa",
        "feedback": "pairsight.recipes.feedback:Feedback",
        "synthetic": "pairsight.recipes.synthetic.recipe:Synthetic",
    },
    needs=("name", "default_strategy", "default_training"),
    expected="a class derived from pairsight.recipes.recipe.Recipe, with name, default_strategy, default_training and "
    "candidates(self, prompts, models, run)",
    base="pairsight.recipes.recipe:Recipe",
)
strategies = Registry(
    "strategy",
    {
        "best_over_worst": "pairsight.selection.best_over_worst:BestOverWorst",
        "clean_over_distorted": "pairsight.selection.clean_over_distorted:CleanOverDistorted",
        "preference_rule": "pairsight.selection.preference_rule:PreferenceRule",
        "rejection_sampling": "pairsight.selection.rejection_sampling:RejectionSampling",
        "sft": "pairsight.selection.sft:Sft",
        "steerlm": "pairsight.selection.steerlm:SteerLM",
    },
    needs=("name",),
    expected="a class derived from pairsight.selection.strategy.Strategy, with a name and __call__(self, candidates)",
    base="pairsight.selection.strategy:Strategy",
)
scorers = Registry(
    "scorer",
    {
        "image_reward": "pairsight.models.scorers.image_reward:ImageReward",
        "clip": "pairsight.models.scorers.clip:ClipScore",
        "blip_match": "pairsight.models.scorers.blip:BlipMatch",
        "blip_cosine": "pairsight.models.scorers.blip:BlipCosine",
        "armorm": "pairsight.models.scorers.armorm:ArmoRM",
        "sequence": "pairsight.models.scorers.sequence_reward:SequenceReward",
        "vlm": "pairsight.models.scorers.vlm_judge:VlmJudge",
    },
    expected="a class derived from pairsight.models.scorers.base.Scorer, with score(self, items)",
    base="pairsight.models.scorers.base:Scorer",
)
losses = Registry(
    "loss",
    {},
    module="pairsight.training.losses",
    needs=("spec",),
    expected="a function marked with @loss(reference=True or False) of pairsight.training.loss_grid",
)
benchmarks = Registry(
    "benchmark",
    {
        "alpaca_eval": "pairsight.benchmarks.suites.alpaca_eval:AlpacaEval",
        "amber": "pairsight.benchmarks.suites.amber:Amber",
        "chair": "pairsight.benchmarks.suites.chair:Chair",
        "gqa": "pairsight.benchmarks.suites.gqa:Gqa",
        "mmbench": "pairsight.benchmarks.suites.mmbench:MMBench",
        "mmbench_cn": "pairsight.benchmarks.suites.mmbench:MMBenchCn",
        "llava_bench": "pairsight.benchmarks.suites.llava_bench:LlavaBench",
        "mm_vet": "pairsight.benchmarks.suites.mm_vet:MmVet",
        "mmhal": "pairsight.benchmarks.suites.mmhal:MMHal",
        "mme": "pairsight.benchmarks.suites.mme:Mme",
        "mt_bench": "pairsight.benchmarks.suites.mt_bench:MtBench",
        "object_halbench": "pairsight.benchmarks.suites.object_halbench:ObjectHalBench",
        "pope": "pairsight.benchmarks.suites.pope:Pope",
        "scienceqa": "pairsight.benchmarks.suites.scienceqa:ScienceQa",
        "seed_bench": "pairsight.benchmarks.suites.seed_bench:SeedBench",
        "seed_bench_likelihood": "pairsight.benchmarks.suites.seed_bench:SeedBenchLikelihood",
        "shr": "pairsight.benchmarks.suites.shr:Shr",
        "textvqa": "pairsight.benchmarks.suites.textvqa:TextVqa",
        "vqav2": "pairsight.benchmarks.suites.vqav2:Vqav2",
    },
    needs=("name",),
    expected="a class derived from pairsight.benchmarks.protocol.Benchmark, with name, metrics, "
    "load(self, path, images) and read(self, sample, answer, *, official)",
    base="pairsight.benchmarks.protocol:Benchmark",
)
profiles = Registry(
    "profile",
    {
        "llava-1.5": "pairsight.models.profiles.shipped:LLAVA_1_5",
        "llava-1.5-images": "pairsight.models.profiles.shipped:LLAVA_1_5_IMAGES",
        "llava_v1": "pairsight.models.profiles.shipped:LLAVA_V1",
    },
    needs=("turns", "pad", "applied_to"),
    expected="a Profile of pairsight.models.profiles.profile",
)
studies = Registry(
    "study",
    {
        "strategies": "pairsight.studies.strategies:StrategiesStudy",
        "synthetic": "pairsight.studies.synthetic_run:SyntheticAnalyses",
    },
    expected="a class derived from pairsight.studies.result.Study, with results(self, *, quiet)",
    base="pairsight.studies.result:Study",
)
formats = Registry(
    "format",
    {
        "llava": "pairsight.formats.llava:Llava",
        "jsonl": "pairsight.formats.jsonl:Jsonl",
        "texts": "pairsight.formats.texts:Texts",
        "question_list": "pairsight.formats.question_list:QuestionList",
        "folder": "pairsight.formats.folder:Folder",
        "completions": "pairsight.formats.completions:CompletionRows",
        "pairsight": "pairsight.formats.datasets.own:OwnPairs",
        "columns": "pairsight.formats.datasets.columns:Columns",
        "columns-sft": "pairsight.formats.datasets.columns:ColumnsDemonstrations",
        "rlaif-v": "pairsight.formats.datasets.rlaif:RlaifV",
        "rlhf-v": "pairsight.formats.datasets.rlaif:RlhfV",
        "mmpr": "pairsight.formats.datasets.mmpr:Mmpr",
        "povid": "pairsight.formats.datasets.povid:Povid",
        "llava-rlhf": "pairsight.formats.datasets.povid:LlavaRlhf",
        "seva": "pairsight.formats.datasets.seva:SevaPairs",
        "mllm-dpo": "pairsight.formats.datasets.mllm_dpo:MllmDpo",
        "trl": "pairsight.formats.datasets.trl:Trl",
        "trl-implicit": "pairsight.formats.datasets.trl:TrlImplicit",
        "trl-sft": "pairsight.formats.datasets.trl:TrlDemonstrations",
        "llama-factory": "pairsight.formats.datasets.llama_factory:LlamaFactory",
        "llama-factory-alpaca": "pairsight.formats.datasets.llama_factory:LlamaFactoryAlpaca",
        "ms-swift": "pairsight.formats.datasets.messages:MsSwift",
        "openai": "pairsight.formats.datasets.messages:Messages",
        "llava-instruct": "pairsight.formats.datasets.instructions:LlavaDemonstrations",
        "scigraphqa": "pairsight.formats.datasets.instructions:SciGraphQa",
        "lrv-instruct": "pairsight.formats.datasets.instructions:LrvInstruct",
        "ultrafeedback": "pairsight.formats.datasets.rated:UltraFeedback",
        "vlfeedback": "pairsight.formats.datasets.rated:VlFeedback",
        "helpsteer": "pairsight.formats.datasets.rated:HelpSteer",
    },
    expected="a class derived from pairsight.formats.datasets.format.Format, or for prompts alone from "
    "pairsight.formats.dialogue.RowFormat or PromptFormat",
    base="pairsight.formats.dialogue:PromptFormat",
)
