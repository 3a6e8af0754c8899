"""The operator's extra documents for machines that boot Talos: a file of YAML documents beside the settings."""

from __future__ import annotations

from pathlib import Path

import yaml

from provider.domain.errors import SettingsError
from provider.settings import plain_yaml
from provider.wire import siderolink


def load(path: Path) -> str:
    """
    Give the file's text, which is served as it stands; blocks.

    Raises:
        SettingsError: If it is no YAML, or has a document that would stand in for one that makes machines join.
    """
    try:
        text = path.read_text(encoding="utf-8")
        documents = list(yaml.load_all(text, Loader=plain_yaml.Loader))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise SettingsError(f"cannot read the extra machine configuration {path}: {reason}") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise SettingsError(f"{path}: this is not YAML: {error}") from error
    try:
        siderolink.refuse_overrides(documents)
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}", hint=error.hint) from error
    return text
