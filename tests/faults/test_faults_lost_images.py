"""Images of a run that are deleted, cut or changed: the same build command restores them, given or generated."""

import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
from PIL import Image
from small_build import note

from pairsight.engine.stage import Resources
from pairsight.formats.prompts import read_prompts
from pairsight.options import BuildOptions
from pairsight.pipeline.build import BuildSpec, build_run
from pairsight.pipeline.source import Source
from pairsight.recipes.recipe import Recipe, RecipeModels
from pairsight.records import Candidates, Completion, Dropped, ImageCandidate, Prompt
from pairsight.selection.clean_over_distorted import CleanOverDistorted
from pairsight.store.blobs import BlobStore
from pairsight.store.run_folder import RunFolder
from pairsight.store.verify import verify_run
from pairsight.training.config import TrainingConfig


def png(colour: tuple[int, int, int]) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(file, "PNG")
    return file.getvalue()


@dataclass
class Paint:
    """Makes an image of a number, as `GenerateImages` does."""

    blobs: BlobStore
    notes: Path
    batch_size: int = 2
    name: str = "generate_images"
    version: int = 1
    output: type[ImageCandidate] = ImageCandidate
    resources: Resources = field(default_factory=Resources)

    def key(self, item: int) -> dict[str, int]:
        return {"number": item}

    def item_id(self, item: int) -> str:
        return str(item)

    def setup(self) -> None: ...

    def process(self, items: Sequence[int]) -> Iterator[ImageCandidate]:
        for item in items:
            note(self.notes, f"painted {item}")
            yield ImageCandidate(self.blobs.add_bytes(png((0, 0, item)), ".png"), "t", 1.0, item, {}, selected=False)

    def close(self) -> None: ...


class Painted(Recipe):
    """Paints an image for each prompt, and shows both images."""

    name: ClassVar[str] = "painted"
    default_strategy: ClassVar[str] = "clean_over_distorted"
    default_training: ClassVar[TrainingConfig] = TrainingConfig()

    def candidates(self, prompts: Sequence[Prompt], models: RecipeModels, run: Any) -> Iterator[Candidates | Dropped]:
        assert models.blobs is not None
        painted = list(run(Paint(models.blobs, models.blobs.folder.parents[2] / "notes"), range(len(prompts))))
        for prompt, image in zip(prompts, painted, strict=True):
            made = [Completion(f"{prompt.id}:{n}", prompt.id, f"text {n}", "stop", "m", 0, n, images)
                    for n, images in enumerate((None, (image.image,)))]  # fmt: skip
            yield Candidates(prompt, tuple(made), images=(image,))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "images").mkdir()
    rows = []
    for n in range(4):
        (tmp_path / "images" / f"{n}.png").write_bytes(png((n, 255, 0)))
        turns = [{"from": "human", "value": "<image>\nWhat?"}]
        rows.append({"id": f"p{n}", "image": f"{n}.png", "conversations": turns})
    (tmp_path / "prompts.json").write_text(json.dumps(rows))
    return tmp_path


def build(folder: Path) -> dict[str, bytes]:
    """The sealed tables of the build, as it is or as it goes on."""
    run = folder / "run"
    source = Source(read_prompts(folder / "prompts.json", images=folder / "images"))
    models = RecipeModels(generators=(), blobs=BlobStore(run))
    options = BuildOptions(recipe="drawn", model=(), out=str(run))
    build_run(BuildSpec(options, Painted(), CleanOverDistorted(), source), models, quiet=True)
    return {file.name: file.read_bytes() for file in (run / "data").iterdir()}


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "deleted": Path.unlink,
    "emptied": lambda file: file.write_bytes(b"") and None,
    "cut": lambda file: file.write_bytes(file.read_bytes()[:20]) and None,
    "changed": flip,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_same_build_command_restores_every_image(folder: Path, damage: str) -> None:
    tables = build(folder)
    blobs = {file: file.read_bytes() for file in RunFolder.open(folder / "run").blobs.files()}
    assert len(blobs) == 8
    for file in blobs:
        DAMAGES[damage](file)
    assert len(verify_run(folder / "run").problems) == 8
    assert build(folder) == tables
    assert {file: file.read_bytes() for file in RunFolder.open(folder / "run").blobs.files()} == blobs
    assert verify_run(folder / "run").problems == ()
    painted = (folder / "notes").read_text().splitlines()
    assert sorted(painted) == sorted(f"painted {n}" for n in [*range(4)] * 2)


def test_only_lost_images_are_made_again(folder: Path) -> None:
    build(folder)
    run = RunFolder.open(folder / "run")
    (lost,) = (file for file in run.blobs.files() if file.read_bytes() == png((0, 0, 2)))
    lost.unlink()
    build(folder)
    notes = (folder / "notes").read_text().splitlines()
    assert notes[4:] == ["painted 2"]
    assert verify_run(run.path).problems == ()


WRONG_SHA = "{} is damaged (its SHA-256 is not the manifest's); the same build command writes it again"


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_same_build_command_writes_a_table_again(folder: Path, damage: str) -> None:
    tables = build(folder)
    table = folder / "run" / "data" / "pairs-00000.parquet"
    DAMAGES[damage](table)
    missing = f"{table} is missing; the same build command writes it again"
    assert verify_run(folder / "run").problems == (missing if damage == "deleted" else WRONG_SHA.format(table),)
    assert build(folder) == tables
    assert verify_run(folder / "run").problems == ()


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_verify_says_of_a_damaged_manifest_restores_it(folder: Path, damage: str) -> None:
    tables = build(folder)
    manifest = folder / "run" / "data" / "manifest.json"
    DAMAGES[damage](manifest)
    problems = verify_run(folder / "run").problems
    if damage == "deleted":
        unlisted = [name for name in sorted(tables) if name.endswith(".parquet")]
        lines = (f"{manifest.with_name(name)} is not listed in manifest.json; the same build command writes it again"
                 for name in unlisted)  # fmt: skip
        assert problems == tuple(lines)
    elif damage == "changed":  # the byte in the middle is one of a hash
        assert problems == (WRONG_SHA.format(manifest.with_name("completions-00000.parquet")),)
    else:
        assert problems == (
            f"{manifest} is damaged; remove it and run the same command again to write the tables again",
        )
        manifest.unlink()
    assert build(folder) == tables
    assert verify_run(folder / "run").problems == ()
