"""Which profile a model is used with: what the user asks for, against what its folder says it was trained with."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import yaml

from pairsight.config import read_yaml
from pairsight.errors import ConfigError, ModelError
from pairsight.models.local.named_templates import named_template
from pairsight.models.profiles.profile import Profile
from pairsight.registry import profiles

NONE = "none"
"""What `--profile` takes for a model as its own folder has it, without a profile."""


def read_profile(named: str | Path) -> Profile | None:
    """The profile of a name or a YAML file; None for "none".

    Raises:
        ConfigError: an unknown name, or a file that is missing, is not YAML or has another option than a profile's.
    """
    if str(named) == NONE:
        return None
    if Path(named).suffix in (".yaml", ".yml"):
        return Profile.parse({"name": Path(named).stem, **read_yaml(named)}, f"profile {named}")
    found: Profile = profiles.get(str(named))
    return found


def with_chat_template(named: str | Path | None, chat_template: str) -> Profile:
    """A profile, or none, together with a chat template for models whose folder has none.

    Args:
        named: as `read_profile` takes it; None: no profile.
        chat_template: a name, or a file of Jinja.

    Raises:
        ConfigError: an unknown one of either, or a profile that writes prompts itself.
    """
    profile = None if named is None else read_profile(named)
    text = named_template(chat_template)
    if profile is None:
        return Profile.parse({"name": Path(chat_template).stem[:80], "chat_template": text}, "--chat-template")
    if profile.writes_prompts:
        raise ConfigError(
            f"--chat-template changes nothing, profile '{profile.name}' writes prompts itself; leave it out"
        )
    return Profile.parse({**profile.to_plain(), "chat_template": text}, f"profile {profile.name}")


def choose_profile(asked: str | Path | Profile | None, notes: Iterable[tuple[Path, object]]) -> Profile | None:
    """The one profile for some models that are compared, or for a model and its adapter.

    Args:
        asked: what `--profile` says, or a profile; None: nothing, so what the folders were trained with.
        notes: folders that say what they were trained with, None for no profile; one that says nothing, as published
            models do, goes with any.

    Raises:
        ModelError: a folder that was trained with another profile than is asked for, or than another folder.
        ConfigError: as `read_profile`.
    """
    known = [(folder, None if note is None else recorded_profile(note, str(folder))) for folder, note in notes]
    if asked is not None:
        profile = asked if isinstance(asked, Profile) else read_profile(asked)
        for folder, record in known:
            if not same(record, profile):
                raise ModelError(
                    f"{folder} was trained {_with(record)}, and --profile asks for {_called(profile)}: leave --profile "
                    "out to use it as it was trained"
                )
        return profile
    if not known:
        return None
    first, profile = known[0]
    for folder, record in known[1:]:
        if not same(record, profile):
            raise ModelError(
                f"{first} was trained {_with(profile)}, {folder} {_with(record)}: they see other pixels and prompts, "
                "so use them in separate calls"
            )
    return profile


def recorded_profile(said: object, where: str) -> Profile:
    """The profile that a file notes, as `to_plain` wrote it.

    Raises:
        ModelError: it is damaged.
    """
    if not isinstance(said, Mapping):
        raise ModelError(f"{where}: 'profile' must be a mapping, found {type(said).__name__}")
    try:
        return Profile.parse(said, f"{where}: profile")
    except ConfigError as error:
        raise ModelError(str(error)) from None


def profile_yaml(profile: Profile) -> str:
    """A profile as the content of a file that `read_profile` reads."""
    said = {"name": profile.name, **json.loads(profile.content())}
    return yaml.safe_dump(said, sort_keys=False, allow_unicode=True, width=118)


def same(one: Profile | None, other: Profile | None) -> bool:
    """Whether two profiles say the same, whatever they are called; None for no profile."""
    return other is None if one is None else one.is_same(other)


def _called(profile: Profile | None) -> str:
    return "no profile" if profile is None else f"'{profile.name}'"


def _with(profile: Profile | None) -> str:
    return "without a profile" if profile is None else f"with profile '{profile.name}'"
