"""
YAML without the traps of YAML 1.1, which PyYAML reads: there, the MAC address `52:54:00:00:00:02` is a number to the base of
60, and `off`, as in `dhcp: off`, is false. Here words are words, as in YAML 1.2 (core schema, section 10.3.2).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import yaml

_PATTERNS = {
    "tag:yaml.org,2002:bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "tag:yaml.org,2002:int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    "tag:yaml.org,2002:float": (r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?", "-+.0123456789"),
}


def load(text: str) -> object:
    """
    Read a document.

    Raises:
        yaml.YAMLError: If it is none.
    """
    return yaml.load(text, Loader=Loader)  # noqa: S506 - a safe one


def twice(node: yaml.Node, place: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], int]]:
    """
    Give the place and the line of each key that stands in its mapping for the second time, where YAML lets it win silently.
    """
    if isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            yield from twice(value, (*place, number))
    if not isinstance(node, yaml.MappingNode):
        return
    seen = set()
    for key, value in node.value:
        here = (*place, key.value)
        if key.value in seen:
            yield here, key.start_mark.line + 1
        seen.add(key.value)
        yield from twice(value, here)


class Loader(yaml.SafeLoader):
    """Plain values only."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's way
        first: [(tag, pattern) for tag, pattern in known if tag not in {*_PATTERNS, "tag:yaml.org,2002:timestamp"}]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


for _tag, (_pattern, _first) in _PATTERNS.items():
    Loader.add_implicit_resolver(_tag, re.compile(f"^(?:{_pattern})$"), list(_first))
