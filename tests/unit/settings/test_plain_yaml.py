"""What words in a configuration file are."""

from __future__ import annotations

import pytest
import yaml

from provider.settings import plain_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("52:54:00:00:00:02", "52:54:00:00:00:02"),
        ("off", "off"),
        ("no", "no"),
        ("2026-11-23", "2026-11-23"),
        ("1:30", "1:30"),
        ("true", True),
        ("False", False),
        ("8080", 8080),
        ("-5", -5),
        ("0", 0),
        ("0x10", 16),
        ("1.5", 1.5),
        ("~", None),
        ("null", None),
        ("1e3x", "1e3x"),
        ("10.77.0.1", "10.77.0.1"),
        ("'8080'", "8080"),
    ],
)
def test_scalars(text: str, value: object) -> None:
    """A MAC address is a number, or `dhcp: off` is no mode."""
    found = plain_yaml.load(f"x: {text}")
    assert found == {"x": value}
    assert isinstance(found, dict)
    assert type(found["x"]) is type(value)


def test_no_objects_of_python() -> None:
    """A configuration file runs a program."""
    with pytest.raises(yaml.YAMLError):
        plain_yaml.load("x: !!python/object/apply:os.system [true]")
