"""No advice that does not work: every verb, flag and option that a message, docstring, help or page names exists."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from pairsight import registry
from pairsight.cli.main import app
from pairsight.cli.show import print_build
from pairsight.options import AlignOptions, BuildOptions, EvaluateOptions, ScoreOptions
from pairsight.pipeline.build import Built
from pairsight.pipeline.run import RunConfig
from pairsight.training.config import TrainingConfig

ROOT = Path(__file__).parents[3]
SOURCES = ROOT / "src" / "pairsight"
PAGES = [ROOT / "README.md", *(page for page in sorted((ROOT / "docs").rglob("*.md")) if page.name != "LOG.md")]
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
WISHED_FOR = {"--part"}
"""Named in docs/scaling.md as what does not exist yet."""
OF_A_ROOM = {
    "formats": ("build", "align", "inspect"),
    "formats/containers": ("build", "align", "inspect", "convert"),
    "formats/writing": ("convert",),
    "images": ("build", "evaluate"),
    "recipes": ("build",),
    "selection": ("build", "align"),
    "models": ("build", "align", "evaluate", "score"),
    "models/checkpoints": ("convert-weights", "evaluate"),
    "engine": ("build", "evaluate"),
    "training": ("align",),
    "benchmarks": ("evaluate", "score"),
    "inspection": ("inspect", "align"),
    "studies": ("study",),
    "tiny": ("tiny", "tiny serve", "demo"),
    "pipeline/align.py": ("align",),
    "pipeline/build.py": ("build",),
    "pipeline/evaluate.py": ("evaluate", "score"),
    "pipeline/run.py": ("run",),
}
"""Which verbs show the messages of a room; of all others any verb may."""


def flags_by_verb() -> dict[str, set[str]]:
    found = {}
    for name, command in typer.main.get_command(app).commands.items():
        for verb, one in {
            name: command,
            **{f"{name} {k}": c for k, c in getattr(command, "commands", {}).items()},
        }.items():
            found[verb] = {"--help"} | {flag for param in one.params for flag in param.opts if flag.startswith("--")}
    return found


def options_by_verb() -> dict[str, set[str]]:
    """What `--set NAME=` may name."""
    recipes = {field for name in registry.recipes.names() for field in registry.recipes.get(name).model_fields}
    strategies = {field for name in registry.strategies.names() for field in registry.strategies.get(name).model_fields}
    studies = {field for name in registry.studies.names() for field in registry.studies.get(name).model_fields}
    return {
        "build": {*BuildOptions.model_fields, *recipes, *strategies},
        "align": {*AlignOptions.model_fields, *TrainingConfig.model_fields},
        "evaluate": set(EvaluateOptions.model_fields),
        "score": set(ScoreOptions.model_fields),
        "run": set(RunConfig.model_fields),
        "study": studies,
    }


FLAGS, OPTIONS = flags_by_verb(), options_by_verb()


def texts(file: Path) -> Iterator[str]:
    """All string constants of a module; what an f-string fills in is shown as X."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    inside = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            inside |= {id(part) for part in ast.walk(node) if isinstance(part, ast.Constant)}
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            yield node.value


def commands(text: str) -> Iterator[tuple[str, str]]:
    """(verb, the rest of the command) of every `pairsight VERB ...` in a text."""
    joined = re.sub(r"\\\n\s*", " ", text)
    for found in re.finditer(
        r"(?:(?<=`)|^|(?<=[ ;:(]))pairsight (?P<verb>[a-z]+(?:-[a-z]+)?)(?P<rest>(?:(?!, )[^`;\n\"])*)",
        joined,
        re.MULTILINE,
    ):
        verb, rest = found["verb"], found["rest"]
        if verb == "tiny" and rest.startswith(" serve"):
            verb = "tiny serve"
        yield verb, rest


def problems(text: str, verbs: tuple[str, ...], own: set[str] = frozenset()) -> list[str]:
    """What a text names that does not exist for these verbs; `own` are flags of the file's own parser."""
    text = re.sub(r"(?:lmms-eval|pip|mypy|swift rlhf|vllm serve|sglang\.launch_server) [^`\n]*", "", text)
    text = re.sub(r"(?:torchrun|accelerate launch) [^`\n]*?-m pairsight ", "pairsight ", text)
    text = re.sub(rf"`({'|'.join(FLAGS)}) (?=[^`]*--)", r"`pairsight \1 ", text)  # `align --model X`, for short
    found = []
    for module, rest in re.findall(r"python (?:-m pairsight\.([a-z_.]+)|[a-z_]+/[a-z_]+\.py)([^`\n]*)", text):
        if module:
            file = SOURCES / (module.replace(".", "/") + ".py")
            known = set(texts(file if file.is_file() else file.with_suffix("") / "__main__.py"))
            found += [f"{flag} of {module}" for flag in FLAG.findall(rest) if flag not in known]
    text = re.sub(r"python (?:-m pairsight|[a-z_]+/[a-z_]+\.py)[^`\n]*", "", text)
    for verb, rest in commands(text):
        if verb in ("as", "probe"):  # `import pairsight as ps`, and a marker in chat templates
            continue
        if verb not in FLAGS:
            found.append(f"pairsight {verb}")
            continue
        found += [f"{flag} of {verb}" for flag in FLAG.findall(rest) if flag not in FLAGS[verb]]
        for name in re.findall(r"--set ([a-z_]+)", rest):
            if name not in OPTIONS.get(verb, ()):
                found.append(f"--set {name} of {verb}")
    known = set().union(*(FLAGS[verb] for verb in verbs or FLAGS), own)
    bare = re.sub(r"pairsight [a-z]+(?:(?!, )[^`;\n\"])*", "", text)
    found += [f"{flag} of {'/'.join(verbs) or 'any verb'}" for flag in FLAG.findall(bare) if flag not in known]
    everything = set().union(*(OPTIONS.get(verb, set()) for verb in verbs or OPTIONS))
    found += [f"--set {name}" for name in re.findall(r"--set ([a-z_]+)[=.]", bare) if name not in {*everything, "key"}]
    return found


def test_every_verb_flag_and_option_named_in_the_sources_exists():
    bad = []
    for file in sorted(SOURCES.rglob("*.py")):
        path = file.relative_to(SOURCES).as_posix()
        if path == "plots.py":  # its `--series-N` are names of CSS
            continue
        every = list(texts(file))
        room = path.partition("/")[0]
        folder = path.rpartition("/")[0]
        verbs = OF_A_ROOM.get(path, OF_A_ROOM.get(folder, OF_A_ROOM.get(room, ())))
        own = set(every) if "argparse" in file.read_text(encoding="utf-8") else set()
        bad += [f"{path}: {problem}" for text in every for problem in problems(text, verbs, own)]
    assert bad == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_verb_flag_and_option_named_in_a_page_exists(page: Path):
    text = page.read_text(encoding="utf-8")
    assert [problem for problem in problems(text, ()) if problem.split()[0] not in WISHED_FOR] == []


def test_the_check_itself_finds_what_is_wrong():
    assert problems("compare with --max-length-difference 2", ("inspect", "align")) == [
        "--max-length-difference of inspect/align"
    ]
    assert problems("run `pairsight evaluate R --merge`", ()) == ["--merge of evaluate"]
    assert problems("use `align --merged` then", ()) == ["--merged of align"]
    assert problems("`pairsight improve RUN`", ()) == ["pairsight improve"]
    assert problems("next: pairsight align X --set betta=1; pairsight report X", ()) == ["--set betta of align"]
    assert problems("go on with --on-error skip", ("score",)) == ["--on-error of score"]
    assert problems("`python -m pairsight.tiny.train --out DIR --sized`", ()) == ["--sized of tiny.train"]
    assert problems("`pairsight build seva \\\n  --model m --set noise_step=3`", ()) == []


def built(num_pairs: int, model: str) -> Built:
    return Built(Path("runs/x"), model, 3, num_pairs, "pairs", {("margin", "select"): 3}, {})


def test_without_pairs_nothing_is_said_about_aligning_on_them(capsys):
    print_build(built(0, "m"))
    printed = capsys.readouterr().out
    assert "pairsight align" not in printed
    assert "there are no pairs to align on" in printed
    print_build(built(2, "org/name"))
    assert "next: pairsight inspect runs/x; pairsight align runs/x --model org/name\n" in capsys.readouterr().out


def test_for_an_adapter_that_answered_a_model_is_named_that_align_takes(capsys, tmp_path: Path):
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    for folder in (base, adapter, adapter / "merged"):
        folder.mkdir()
    (base / "config.json").write_text("{}")
    (adapter / "adapter_config.json").write_text(f'{{"base_model_name_or_path": "{base}"}}')
    print_build(built(2, str(adapter)))
    assert capsys.readouterr().out.endswith(f"--model {base}\n")
    (adapter / "merged" / "config.json").write_text("{}")
    print_build(built(2, str(adapter)))
    assert capsys.readouterr().out.endswith(f"--model {adapter / 'merged'}\n")
    print_build(built(2, "endpoint:gpt@https://x/v1"))
    assert capsys.readouterr().out.endswith("--model MODEL\n")
