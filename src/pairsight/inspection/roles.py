"""Which model has which role in a run, and a warning where one model has two roles that should be separate."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pairsight.benchmarks.results_file import read_results
from pairsight.build_record import BuildRecord
from pairsight.errors import DataError


@dataclass(frozen=True, slots=True)
class Roles:
    """Names of models, and what identifies them: role -> (name, fingerprint or name)."""

    models: Mapping[str, tuple[str, str]]


def read_roles(run: Path, record: BuildRecord) -> Roles:
    """The policy and the annotator from a run's record, the judges from its `results.json`."""
    models: dict[str, tuple[str, str]] = {}
    annotator = record.options.get("annotator")
    for role, names in {"model": record.models, "annotator": (str(annotator),) if annotator else ()}.items():
        fingerprints = record.fingerprints[role]
        for index, name in enumerate(names or fingerprints):
            own = fingerprints[index] if index < len(fingerprints) else name
            models[role if index == 0 else f"{role} {index + 1}"] = (name, own)
    for name in sorted(set(_judges(run / "results.json"))):
        models[f"judge {name}" if "judge" in models else "judge"] = (name, name)
    return Roles(models)


def roles_in_words(roles: Roles) -> list[str]:
    """Warnings; none where every role has a model of its own."""
    sentences = []
    annotator = roles.models.get("annotator")
    if annotator is None:
        return []
    for role, judge in roles.models.items():
        if role.startswith("judge") and set(judge) & set(annotator):
            sentences.append(
                f"warning: annotator and judge are one model ({judge[0]}): training followed its preferences, so its "
                "verdicts are not independent; judge with another model"
            )
    for role, model in roles.models.items():
        if role.startswith("model") and model[1] == annotator[1]:
            sentences.append(f"the annotator is the model that made the completions ({annotator[0]}): it rates its own")
    return sentences


def _judges(path: Path) -> Iterator[str]:
    """The judges of all benchmarks in a results file; a damaged file names none."""
    try:
        results = read_results(path)
    except DataError:
        return
    systems = list(results.systems.values())
    systems += [control for system in systems for control in system.controls.values()]
    for section in (*results.sections, *(section for system in systems for section in system.sections)):
        judge = section.settings.get("judge")
        if isinstance(judge, str) and judge:
            yield judge
