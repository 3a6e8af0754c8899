"""A copy of /sys and /proc made of a table: path to content; a tuple is a symbolic link."""

from __future__ import annotations

from pathlib import Path

Content = str | bytes | tuple[str] | None


def make(root: Path, files: dict[str, Content]) -> Path:
    """Write the files below `root`; None makes a folder."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        match content:
            case None:
                path.mkdir(parents=True, exist_ok=True)
            case (target,):
                path.symlink_to(target)
            case bytes():
                path.write_bytes(content)
            case str():
                path.write_text(f"{content}\n")
    return root


def disk(name: str, device: str, **values: Content) -> dict[str, Content]:
    """One block device: `/sys/class/block/NAME` linked into the device tree at `device`; `/` in names is `__`."""
    block = f"sys/devices/{device}/block/{name}"
    depth = "../" * 2
    files: dict[str, Content] = {
        f"sys/class/block/{name}": (f"{depth}devices/{device}/block/{name}",),
        f"{block}/device": ("../..",),
        f"{block}/size": "131072",
        f"{block}/ro": "0",
        f"{block}/removable": "0",
        f"{block}/queue/rotational": "0",
        f"{block}/queue/logical_block_size": "512",
        f"{block}/queue/discard_max_bytes": "0",
    }
    for key, value in values.items():
        files[f"{block}/{key.replace('__', '/')}" if not key.startswith("device__") else _on_device(device, key)] = (
            value
        )
    return files


def _on_device(device: str, key: str) -> str:
    return f"sys/devices/{device}/{key.removeprefix('device__').replace('__', '/')}"
