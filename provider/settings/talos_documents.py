"""The operator's extra documents for machines that boot Talos: a file of YAML documents beside the settings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import yaml

from provider.domain.errors import SettingsError
from provider.settings import plain_yaml
from provider.wire import siderolink


def load(path: Path) -> str:
    """
    Give the file's text, which is served as it stands; blocks.

    Talos refuses all documents for one that it cannot read, and a machine that has none joins nothing. So what two libraries of
    YAML may take for different things is refused here: a key that is written twice, and a kind that is merged in.

    Raises:
        SettingsError: If it is no YAML, or has a document that would stand in for one that makes machines join.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        nodes = list(yaml.compose_all(text, Loader=plain_yaml.Loader))
        documents = list(yaml.load_all(text, Loader=plain_yaml.Loader))
        problems = [problem for node in nodes for problem in _problems(node)]
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise SettingsError(f"cannot read the extra machine configuration {path}: {reason}") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise SettingsError(f"{path}: this is not YAML: {error}") from error
    if problems:
        raise SettingsError(
            "\n".join(f"{path}:{problem}" for problem in problems), hint="write each key once, in its place"
        )
    try:
        siderolink.refuse_overrides(documents)
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}", hint=error.hint) from error
    return text


def _problems(document: yaml.Node) -> Iterator[str]:
    for place, line in plain_yaml.twice(document):
        yield f"{line}: {place[-1]} is written twice"
    if isinstance(document, yaml.MappingNode):
        for key, _ in document.value:
            if key.tag == "tag:yaml.org,2002:merge":
                yield f"{key.start_mark.line + 1}: Talos does not look for the kind of a document in what is merged into it"
