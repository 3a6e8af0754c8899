"""Names for JSON values."""

from __future__ import annotations

JsonObject = dict[str, object]
"""A JSON object whose values are JSON values."""
