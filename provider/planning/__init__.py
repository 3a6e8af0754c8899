"""Decisions: pure functions over facts, desired state and `now`. Nothing here does anything."""
