"""
The messages, made at start from the .proto files beside this one.

protoc (of grpcio-tools) describes them, and google.protobuf makes classes of that in a pool of our own: the provider in the same
process may have messages of the same names.
"""

from __future__ import annotations

import tempfile
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from provider.domain.errors import PermanentError

_FOLDER = Path(__file__).with_name("proto")
_PACKAGES = {"cosi": "cosi.resource", "specs": "specs", "management": "management", "tunnel": "grpctunnel.v1"}

Message = Any
"""A message: its class is made at run time."""


class Protos:
    """`protos.cosi.GetRequest` is a message class, `protos.cosi.CREATED` a number; so for `specs`, `management`, `tunnel`."""

    def __init__(self) -> None:
        classes = _classes()
        packages = {name: _package(classes, package) for name, package in _PACKAGES.items()}
        self.cosi, self.specs = packages["cosi"], packages["specs"]
        self.management, self.tunnel = packages["management"], packages["tunnel"]


@lru_cache(maxsize=1)
def load() -> Protos:
    """
    The messages; made once in a process, in about a tenth of a second.

    Raises:
        PermanentError: If the libraries of the `test` extra are not installed.
    """
    return Protos()


def _classes() -> dict[str, Any]:
    try:
        import grpc_tools
        from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
        from google.protobuf.internal import enum_type_wrapper
        from grpc_tools import protoc
    except ImportError as error:
        raise PermanentError(
            f"the fake Omni needs a library that is not installed: {error.name}",
            hint="install the test extra: pip install 'bootwright[test]'",
        ) from error
    sources = sorted(path.name for path in _FOLDER.glob("*.proto"))
    well_known = Path(grpc_tools.__file__).with_name("_proto")
    with tempfile.TemporaryDirectory(prefix="omni-protos-") as folder:
        out = Path(folder) / "descriptors"
        arguments = [f"-I{_FOLDER}", f"-I{well_known}", "--include_imports", f"--descriptor_set_out={out}"]
        if protoc.main(["protoc", *arguments, *sources]) != 0:
            raise PermanentError(f"protoc refused the files in {_FOLDER}")
        described = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes())
    pool = descriptor_pool.DescriptorPool()
    for file in described.file:
        pool.Add(file)
    files = [file.name for file in described.file]
    found: dict[str, Any] = message_factory.GetMessageClassesForFiles(files, pool)
    for enum in (each for name in files for each in pool.FindFileByName(name).enum_types_by_name.values()):
        package = enum.full_name.removesuffix(enum.name)
        found |= {enum.full_name: enum_type_wrapper.EnumTypeWrapper(enum)}
        found |= {f"{package}{value.name}": value.number for value in enum.values}
    return found


def _package(classes: dict[str, Any], package: str) -> SimpleNamespace:
    prefix = f"{package}."
    names = {name.removeprefix(prefix): kind for name, kind in classes.items() if name.startswith(prefix)}
    return SimpleNamespace(**{name: kind for name, kind in names.items() if "." not in name})
