"""What Omni asks of ids, labels and annotations that clients write (omni: validations/metadata.go); bytes are counted."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping

import grpc

from provider.lab.omni.resources import CallError, Resource

MOST = 256
LONGEST_NAME = 1024
LONGEST_VALUE = 16 * 1024


def check(resource: Resource, current: Resource | None) -> None:
    """
    Check a resource that takes the place of the current one, if there is one: what was there before stays good.

    Raises:
        CallError: INVALID_ARGUMENT.
    """
    if current is None:
        _check_id(resource.id)
    _check_pairs("label", resource.labels, {} if current is None else current.labels)
    _check_pairs("annotation", resource.annotations, {} if current is None else current.annotations)


def invalid(text: str) -> CallError:
    """The error of a validation."""
    return CallError(grpc.StatusCode.INVALID_ARGUMENT, f"failed to validate: 1 error occurred:\n\t* {text}\n\n")


def _check_id(identity: str) -> None:
    if not identity:
        raise invalid("resource ID must not be empty")
    _check_length("resource ID is", identity, LONGEST_NAME)
    if _has_control(identity):
        raise invalid("resource ID must not contain control characters")


def _check_pairs(what: str, pairs: Mapping[str, str], before: Mapping[str, str]) -> None:
    if len(pairs) > max(MOST, len(before)):
        raise invalid(f"too many {what}s: {len(pairs)} (max {MOST})")
    for name, value in pairs.items():
        if before.get(name) == value:
            continue
        if not name:
            raise invalid(f"{what} key must not be empty")
        _check_length(f"{what} key is", name, LONGEST_NAME)
        quoted = json.dumps(name, ensure_ascii=False)
        if _has_control(name):
            raise invalid(f"{what} key {quoted} must not contain control characters")
        _check_length(f"{what} value for key {quoted} is", value, LONGEST_VALUE)
        if _has_control(value):
            raise invalid(f"{what} value for key {quoted} must not contain control characters")


def _check_length(beginning: str, text: str, longest: int) -> None:
    if (length := len(text.encode())) > longest:
        raise invalid(f"{beginning} too long: {length} bytes (max {longest})")


def _has_control(text: str) -> bool:
    return any(unicodedata.category(character) == "Cc" for character in text)
