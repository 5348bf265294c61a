"""What a user names as a dataset -> the files that hold its rows, and where their images are.

A file, a folder of files of one kind, a folder that `datasets` saved, a meta file of MMPR, or a `dataset_info.json` of
LLaMA-Factory; or the name of a dataset on the Hugging Face hub, from the local cache.
"""

import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pairsight.bounded import read_json
from pairsight.errors import DataError, one_line
from pairsight.formats.containers.tables import arrow_rows, csv_rows, parquet_rows
from pairsight.formats.containers.webdataset import tar_rows
from pairsight.formats.rows import Row, read_rows

_LOG = logging.getLogger("pairsight.formats")
_READERS: Mapping[str, Callable[[Path], Iterator[Row | DataError]]] = {
    ".parquet": parquet_rows, ".arrow": arrow_rows, ".csv": csv_rows, ".tsv": csv_rows, ".tar": tar_rows,
    ".tar.gz": tar_rows, ".tgz": tar_rows, ".json": read_rows, ".jsonl": read_rows, ".ndjson": read_rows,
    ".json.gz": read_rows, ".jsonl.gz": read_rows,
}  # fmt: skip
"""By the end of a file's name; any other file is read as JSON."""
_SHARDS = re.compile(r"([A-Za-z][\w]*?)[-.]\d+(-of-\d+)?(-[0-9a-f]+)?$")
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_PLACES = {"file_name", "hf_hub_url", "ms_hub_url", "script_url", "cloud_file_name"}
"""How an entry of LLaMA-Factory's list says where the dataset is."""
_LARGEST_INDEX = 4 << 20
"""Bytes of a file that may be an index of others."""


@dataclass(frozen=True, slots=True)
class Part:
    """A file of rows, and the folder below the images' that its rows' image names are relative to."""

    file: Path
    root: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """A dataset's files, the folder of its images where the user names none, and its own names of columns."""

    name: str
    parts: tuple[Part, ...]
    images: Path
    columns: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)

    def rows(self) -> Iterator[tuple[Part, Row | DataError]]:
        """Every row of every file, with an error instead of a bad one; started again at each call."""
        for part in self.parts:
            for row in _READERS.get(_ending(part.file), read_rows)(part.file):
                yield part, row


def find(name: str, *, allow_download: bool = False) -> Found:
    """The dataset that a user names.

    Args:
        name: a file, a folder, `dataset_info.json#NAME`, or `owner/name` on the hub.
        allow_download: whether a name on the hub that is not in the local cache may be fetched.

    Raises:
        DataError: there is none, an empty one, or several from which the user must choose.
    """
    path, _, chosen = name.partition("#")
    here = Path(name) if Path(name).exists() else Path(path)
    chosen = "" if here == Path(name) else chosen
    if not here.exists():
        if _HUB_NAME.fullmatch(name) and not Path(name).parent.exists():
            return _of_folder(_from_hub(name, allow_download), name, "")
        raise DataError(
            f"{name} does not exist: a run, a file or folder of rows, or OWNER/NAME on the hub", "missing_file"
        )
    if here.is_dir():
        return _of_folder(here, str(here), chosen)
    return _of_index(here, chosen) or Found(str(here), (Part(here),), here.parent)


def _of_folder(folder: Path, name: str, chosen: str) -> Found:
    saved = _saved(folder, chosen)
    if saved:
        return Found(name, tuple(map(Part, saved)), folder)
    for index in ("dataset_info.json", "meta.json"):
        found = _of_index(folder / index, chosen) if (folder / index).is_file() else None
        if found is not None:
            return found
    files = [file for file in sorted([*folder.iterdir(), *folder.glob("data/*")]) if _ending(file)]
    files = [file for file in files if file.is_file() and file.name not in ("dataset_infos.json", "dataset_info.json")]
    kinds = sorted({_ending(file) for file in files})
    if not files:
        known = ", ".join(_READERS)
        raise DataError(f"{folder} holds no rows: a folder of {known} files is needed", "missing_file")
    if len(kinds) > 1:
        raise DataError(f"{folder} holds {' and '.join(kinds)} files: name the one to read", "several_files")
    return Found(name, tuple(map(Part, _one_split(files, chosen))), folder)


def _ending(file: Path) -> str:
    """How the name of a file of rows ends; "" for another file."""
    name = file.name.lower()
    return max((ending for ending in _READERS if name.endswith(ending)), key=len, default="")


def _one_split(files: list[Path], chosen: str) -> list[Path]:
    """Of files called after splits those of one: the named one, else `train`; files without splits all together."""
    splits = {file: match[1] for file in files if (match := _SHARDS.match(file.stem))}
    names = set(splits.values())
    if not chosen and (len(splits) < len(files) or len(names) < 2 or "train" not in names):
        return files
    taken = _chosen_split(files[0].parent, sorted(names), chosen)
    return [file for file in files if splits.get(file) == taken]


def _chosen_split(folder: Path, splits: list[str], chosen: str) -> str:
    """The split to read: the named one, else `train`, else the only one."""
    taken = chosen or ("train" if "train" in splits else splits[0] if len(splits) == 1 else "")
    if taken not in splits:
        raise DataError(f"{folder}: name a split as '{folder}#SPLIT'; there are {', '.join(splits)}", "several_files")
    if others := ", ".join(name for name in splits if name != taken):
        _LOG.warning("%s: the split '%s' is read; left aside: %s", folder, taken, others)
    return taken


def _saved(folder: Path, chosen: str) -> list[Path]:
    """The Arrow files of a folder that `datasets` saved, in order; none for another folder."""
    if (folder / "dataset_dict.json").is_file():
        splits = [name for name in _names(_object(folder / "dataset_dict.json").get("splits")) if _is_name(name)]
        folder = folder / _chosen_split(folder, splits, chosen)
    if not (folder / "state.json").is_file():
        return []
    listed = _object(folder / "state.json").get("_data_files")
    names = [one.get("filename") for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
    bad = [name for name in names if not (isinstance(name, str) and _is_name(name))]
    if bad or not names:
        raise DataError(f"{folder / 'state.json'} lists no data files of its folder ({bad[:1]})", "bad_arrow")
    return [folder / str(name) for name in names]


def _of_index(file: Path, chosen: str) -> Found | None:
    """What a file that lists others leads to; None for a file of rows."""
    entries = _entries(file)
    if entries and all("annotation" in one and "root" in one for one in entries.values()):
        return _of_meta(file, entries)
    if entries and all(_PLACES & one.keys() for one in entries.values()):
        return _of_llama_factory(file, entries, chosen)
    return None


def _entries(file: Path) -> Mapping[str, Mapping[str, object]]:
    """The objects by name in a small JSON file that is one object of objects; none in any other file."""
    if file.suffix.lower() != ".json" or file.stat().st_size > _LARGEST_INDEX:
        return {}
    try:
        listed = json.loads(file.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError):
        return {}  # JSON Lines, or damaged: read as rows, which say what is wrong
    found = (
        {str(name): one for name, one in listed.items() if isinstance(one, dict)} if isinstance(listed, dict) else {}
    )
    return found if len(found) == len(listed) else {}


def _of_meta(file: Path, entries: Mapping[str, Mapping[str, object]]) -> Found:
    """MMPR's meta file: name -> {root, annotation, repeat_time}; paths are relative to a folder that is looked for."""
    first = str(next(iter(entries.values()))["annotation"])
    bases = [base for base in file.resolve().parents[:4] if (base / first).is_file()]
    if not bases:
        raise DataError(f"{file}: there is no '{first}' in its folder or the ones above", "missing_file")
    parts = []
    for name, one in entries.items():
        annotation = (bases[0] / str(one["annotation"])).resolve()
        if not annotation.is_relative_to(bases[0]):
            raise DataError(f"{file} '{name}': {one['annotation']} lies outside {bases[0]}", "outside_file")
        if not annotation.is_file():
            raise DataError(f"{file} '{name}': there is no {annotation}", "missing_file")
        if one.get("repeat_time", 1) != 1:
            _LOG.warning("%s '%s': every row is read once, not %s times", file, name, one.get("repeat_time"))
        parts.append(Part(annotation, str(one["root"]).strip("/")))
    return Found(str(file), tuple(parts), bases[0])


def _of_llama_factory(file: Path, entries: Mapping[str, Mapping[str, object]], chosen: str) -> Found:
    """One dataset of LLaMA-Factory's `dataset_info.json`: its file, and what it calls columns and roles."""
    local = [name for name, one in entries.items() if "file_name" in one]
    ranking = [name for name in local if entries[name].get("ranking") is True]
    names = [chosen] if chosen else ranking or local
    if len(names) != 1 or names[0] not in entries:
        which = f"holds no '{chosen}'" if chosen else f"holds {len(names)} datasets with a file"
        raise DataError(f"{file} {which}: name one as '{file}#NAME'; there are {', '.join(entries)}", "several_files")
    one = entries[names[0]]
    if "file_name" not in one:
        raise DataError(f"{file} '{names[0]}' is on a hub: name that dataset itself, or its file", "missing_file")
    target = (file.parent / str(one["file_name"])).resolve()
    if not target.is_relative_to(file.parent.resolve()) or not target.exists():
        raise DataError(f"{file} '{names[0]}': {one['file_name']} is not a file in this folder", "missing_file")
    inner = _of_folder(target, names[0], "") if target.is_dir() else Found(names[0], (Part(target),), file.parent)
    return Found(names[0], inner.parts, file.parent, _texts(one.get("columns")), _texts(one.get("tags")))


def _from_hub(name: str, allow_download: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, repo_type="dataset", local_files_only=not allow_download))
    except LocalEntryNotFoundError:
        how = "the hub cannot be reached" if allow_download else "--allow-download fetches it"
    except (HfHubHTTPError, OSError, ValueError) as error:
        how = one_line(error)
    raise DataError(f"{name} is neither a file here nor a dataset in the local hub cache: {how}", "missing_file")


def _object(file: Path) -> Mapping[str, object]:
    try:
        value = read_json(file)
    except (OSError, ValueError) as error:
        raise DataError(f"{file} cannot be read: {one_line(error)}", "bad_json") from None
    if not isinstance(value, dict):
        raise DataError(f"{file} must hold an object", "bad_json")
    return value


def _names(value: object) -> list[str]:
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []


def _is_name(name: str) -> bool:
    return Path(name).name == name and name not in ("", ".", "..")


def _texts(value: object) -> dict[str, str]:
    return {str(name): one for name, one in value.items() if isinstance(one, str)} if isinstance(value, dict) else {}
