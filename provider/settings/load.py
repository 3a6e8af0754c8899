"""
Reading the configuration file: all problems at once, each with its line and what to do.

`load` needs nothing but the file. `check` looks at the world that the settings speak of (files that must be there), before any
socket is bound.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from provider.domain.errors import PermanentError, SettingsError
from provider.settings import plain_yaml, talos_documents
from provider.settings.models import (
    MANAGERS,
    BmcSettings,
    KernelProfile,
    ManagerSettings,
    NativeManager,
    OmniManager,
    PowerSettings,
    Settings,
    TalosSettings,
)
from provider.wire import sidero_auth

_Place = tuple[str | int, ...]


def load(path: Path) -> Settings:
    """
    Read and validate the file; relative paths in it start at its folder.

    Raises:
        SettingsError: If it cannot be used; the message has one line a problem: `FILE:LINE: setting: what is wrong`.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise SettingsError(
            f"cannot read the configuration file {path}: {reason}", hint="start from config/provider.yaml"
        ) from error
    try:
        node = yaml.compose(text, Loader=plain_yaml.Loader)
        values = plain_yaml.load(text)
    except yaml.MarkedYAMLError as error:
        raise SettingsError(f"{path}:{_line_of(error)}: this is not YAML: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise SettingsError(f"{path}: this is not YAML: {error}") from error
    if not isinstance(node, yaml.MappingNode) or not isinstance(values, dict):
        raise SettingsError(f"{path}:1: the file holds no settings", hint="start from config/provider.yaml")
    lines = dict(_lines(node, ()))
    problems = [f"{path}:{line}: {_spelled(place)}: is written twice" for place, line in plain_yaml.twice(node)]
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        problems += [_problem(path, lines, details) for details in error.errors(include_url=False)]
    if problems:
        raise SettingsError("\n".join(problems), hint="the settings are explained in config/provider.yaml")
    resolved = _resolved(settings, path.resolve().parent)
    problems = [f"{path}:{_nearest(lines, (name,))}: {name}: {text}" for name, text in _exposed(resolved, path)]
    if problems:
        raise SettingsError("\n".join(problems), hint="put what is served into folders of its own")
    return resolved


def check(settings: Settings) -> list[str]:
    """What is missing in the world, a sentence each: files of profiles, secrets, folders."""
    problems = []
    for name, profile in settings.profiles.items():
        for file in (profile.kernel, *profile.initrds):
            problems += _unservable(f"profiles.{name}", file)
    if settings.profiles_dir is not None and not settings.profiles_dir.is_dir():
        problems.append(f"profiles_dir: {settings.profiles_dir} is no folder")
    for number, bmc in enumerate(settings.bmcs):
        if bmc.password_file is not None:
            problems += _unreadable(f"bmcs[{number}].password_file", bmc.password_file)
    if settings.power.redfish.ca_file is not None:
        problems += _unreadable("power.redfish.ca_file", settings.power.redfish.ca_file)
    match settings.manager:
        case NativeManager(token_file=token_file):
            problems += _unreadable("manager.token_file", token_file)
        case OmniManager(key_file=key_file):
            problems += _unreadable("manager.key_file", key_file) or _unusable_key(settings, key_file)
    if settings.manager is not None and settings.manager.ca_file is not None:
        ca_file = settings.manager.ca_file
        problems += _unreadable("manager.ca_file", ca_file) or _no_certificate("manager.ca_file", ca_file)
    if settings.has_talos:
        problems += _talos_problems(settings.talos)
    return problems


def identified(settings: Settings) -> Settings:
    """The settings of a provider that knows its id: with Omni, it is in the key. Call it after `check`."""
    if not isinstance(settings.manager, OmniManager):
        return settings
    account = sidero_auth.read_service_account(settings.manager.key_file.read_text(encoding="utf-8"))
    return settings.model_copy(update={"provider": settings.provider.model_copy(update={"id": account.provider_id})})


def _unusable_key(settings: Settings, key_file: Path) -> list[str]:
    try:
        account = sidero_auth.read_service_account(key_file.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        return [f"manager.key_file: {key_file} is not text"]
    except PermanentError as error:
        return [f"manager.key_file: {error}; {error.hint}"]
    chosen = settings.provider.id
    if "id" in settings.provider.model_fields_set and chosen != account.provider_id:
        key_says = f"provider.id: it is {chosen!r}, and the key in {key_file} is of {account.provider_id!r}"
        return [f"{key_says}: leave provider.id out, or make a key for it with: omnictl infraprovider create {chosen}"]
    return []


def _talos_problems(talos: TalosSettings) -> list[str]:
    problems = []
    if talos.factory_ca_file is not None:
        problems += _unreadable("talos.factory_ca_file", talos.factory_ca_file)
    if talos.extra_machine_configuration is not None:
        try:
            talos_documents.load(talos.extra_machine_configuration)
        except SettingsError as error:
            problems.append(f"talos.extra_machine_configuration: {error}")
    return problems


def _exposed(settings: Settings, file: Path) -> Iterator[tuple[str, str]]:
    """Settings that name a folder out of which everybody may fetch everything, though something in it is for nobody."""
    private = {"this file": file, "provider.state_dir": settings.provider.state_dir}
    for number, bmc in enumerate(settings.bmcs):
        if bmc.password_file is not None:
            private[f"bmcs[{number}].password_file"] = bmc.password_file
    match settings.manager:
        case NativeManager(token_file=token_file):
            private["manager.token_file"] = token_file
        case OmniManager(key_file=key_file):
            private["manager.key_file"] = key_file
    for name, folder in (("boot_files", settings.boot_files), ("profiles_dir", settings.profiles_dir)):
        for what, path in private.items():
            if folder is not None and path.resolve().is_relative_to(folder.resolve()):
                yield name, f"everybody can fetch what is in {folder}, and {what} is there"


def password_of(bmc: BmcSettings) -> str:
    """The password, from wherever it is written."""
    if bmc.password is not None:
        return bmc.password
    assert bmc.password_file is not None  # noqa: S101 - the model sees to it
    return bmc.password_file.read_text(encoding="utf-8").rstrip("\n")


def _unreadable(where: str, file: Path) -> list[str]:
    try:
        with file.open("rb"):
            return []
    except OSError as error:
        return [f"{where}: cannot read {file}: {error.strerror}"]


def _no_certificate(where: str, file: Path) -> list[str]:
    return [] if b"-----BEGIN CERTIFICATE-----" in file.read_bytes() else [f"{where}: {file} has no certificate in PEM"]


def _unservable(where: str, file: Path) -> list[str]:
    if file.exists() and not file.is_file():
        return [f"{where}: {file} is no file"]  # A FIFO would hold whoever opens it.
    return _unreadable(where, file)


def _problem(path: Path, lines: dict[_Place, int], details: ErrorDetails) -> str:
    found = tuple(details["loc"])
    # pydantic puts the kind of a manager between its section and its setting, where the file has nothing.
    place = (found[0], *found[2:]) if len(found) > 1 and found[0] == "manager" else found
    said = _plain(found, details)
    if not place and (
        named := re.fullmatch(r"([a-z_.]+): (.+)", said)
    ):  # A rule of several sections names the one to mend.
        place, said = tuple(named[1].split(".")), named[2]
    return f"{path}:{_nearest(lines, place)}: {_spelled(place)}: {said}"


def _plain(place: _Place, details: ErrorDetails) -> str:
    """pydantic's finding in words that somebody who never heard of pydantic understands."""
    match details["type"]:
        case "extra_forbidden" if (other := _other_kind(place)) is not None:
            return f"is a setting of kind: {other}, and this manager is of kind: {place[1]}"
        case "union_tag_invalid" | "union_tag_not_found":
            return f"kind is {' or '.join(MANAGERS)}"
        case "extra_forbidden":
            near = difflib.get_close_matches(str(place[-1]), _siblings(place), n=1)
            return "no such setting" + (f"; did you mean {near[0]}?" if near else "")
        case "missing":
            return "is missing"
        case "value_error":
            return str(details["ctx"]["error"])
        case _:
            shown = repr(details["input"])
            is_secret = "password" in str(place[-1]) or "@" in shown
            seen = f", not {shown}" if len(shown) < 60 and not is_secret else ""
            return details["msg"][:1].lower() + details["msg"][1:] + seen


def _other_kind(place: _Place) -> str | None:
    """The kind of manager that has the setting."""
    if place[0] != "manager" or len(place) != 3:
        return None
    return next((kind for kind, model in MANAGERS.items() if place[2] in model.model_fields), None)


def _siblings(place: _Place) -> list[str]:
    """The names that would be right where `place` stands."""
    model: Any = Settings
    for part in place[:-1]:
        if place[0] == "manager" and part in MANAGERS:
            model = MANAGERS[str(part)]
        elif (
            isinstance(part, str)
            and isinstance(model, type)
            and issubclass(model, BaseModel)
            and part in model.model_fields
        ):
            model = _model_in(model.model_fields[part].annotation)
    return list(model.model_fields) if isinstance(model, type) and issubclass(model, BaseModel) else []


def _model_in(annotation: Any) -> Any:
    """The settings class inside `X | None`, `tuple[X, ...]`, `dict[str, X]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (_model_in(argument) for argument in get_args(annotation))
    return next((model for model in found if model is not None), None)


def _lines(node: yaml.Node, place: _Place) -> Iterator[tuple[_Place, int]]:
    """The line of each setting."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*place, key.value)
            yield here, key.start_mark.line + 1
            yield from _lines(value, here)
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            here = (*place, number)
            yield here, value.start_mark.line + 1
            yield from _lines(value, here)


def _nearest(lines: dict[_Place, int], place: _Place) -> int:
    """The line of the setting, or of the section that it should stand in."""
    while place:
        if place in lines:
            return lines[place]
        place = place[:-1]
    return 1


def _spelled(place: _Place) -> str:
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text or "file"


def _line_of(error: yaml.MarkedYAMLError) -> int:
    mark = error.problem_mark or error.context_mark
    return 1 if mark is None else mark.line + 1


def _resolved(settings: Settings, folder: Path) -> Settings:
    """All relative paths made absolute."""

    def at(path: Path) -> Path:
        return path if path.is_absolute() else folder / path

    def maybe(path: Path | None) -> Path | None:
        return None if path is None else at(path)

    def profile(one: KernelProfile) -> KernelProfile:
        return one.model_copy(update={"kernel": at(one.kernel), "initrds": tuple(at(file) for file in one.initrds)})

    def bmc(one: BmcSettings) -> BmcSettings:
        return one.model_copy(update={"password_file": maybe(one.password_file)})

    def power(one: PowerSettings) -> PowerSettings:
        redfish = one.redfish.model_copy(update={"ca_file": maybe(one.redfish.ca_file)})
        return one.model_copy(update={"redfish": redfish})

    def manager(one: ManagerSettings) -> ManagerSettings:
        own = {"token_file": at(one.token_file)} if isinstance(one, NativeManager) else {"key_file": at(one.key_file)}
        return one.model_copy(update={**own, "ca_file": maybe(one.ca_file)})

    def talos(one: TalosSettings) -> TalosSettings:
        files = ("factory_ca_file", "cache_dir", "extra_machine_configuration")
        return one.model_copy(update={name: maybe(getattr(one, name)) for name in files})

    return settings.model_copy(
        update={
            "provider": settings.provider.model_copy(update={"state_dir": at(settings.provider.state_dir)}),
            "operator": settings.operator.model_copy(update={"socket": at(settings.operator.socket)}),
            "assets_dir": at(settings.assets_dir),
            "boot_files": maybe(settings.boot_files),
            "profiles_dir": maybe(settings.profiles_dir),
            "profiles": {name: profile(one) for name, one in settings.profiles.items()},
            "bmcs": tuple(bmc(one) for one in settings.bmcs),
            "power": power(settings.power),
            "manager": None if settings.manager is None else manager(settings.manager),
            "talos": talos(settings.talos),
        }
    )
