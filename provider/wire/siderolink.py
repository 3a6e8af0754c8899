"""
How Talos finds its Omni: the configuration documents and kernel arguments that make a machine join, and the tokens in them.

Today's Omni makes the documents itself (`ProviderJoinConfig`), and they are served as they are; for an Omni that does not, we
make the same ones out of its `ConnectionParams`. Documents of ours (the CA) and of the operator follow; none of them may stand in
for one that makes the machine join.

There is no YAML here, because that is a library's work: documents are text, and who must look into them (`refuse_overrides`) gets
them read. Nor is there zstd, for the same reason: `inline_argument` takes what was compressed.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Literal
from urllib.parse import parse_qsl, urlencode, urlsplit

from provider.domain.errors import PermanentError, SettingsError
from provider.domain.secret import Secret
from provider.wire import ipxe

OUR_CA = "infra-provider-ca"
"""The name of our TrustedRootsConfig."""

LOG_NAMES = ("omni-kmsg", "siderolink-agent-kmsg-log")
"""What Omni and Sidero's own provider call the KmsgLogConfig that sends the kernel's log to Omni."""

LABEL_PREFIX = "omni.sidero.dev/"
"""Of labels that are Omni's to give."""

_PROVIDER_LABEL = f"{LABEL_PREFIX}infra-provider-id"


def omni_address() -> IPv6Address:
    """Omni's own address inside SideroLink: the first of a network that all Omnis share, made from an empty installation id."""
    prefix = bytearray(hashlib.sha256(b"").digest()[16:24])
    prefix[0], prefix[7] = 0xFD, 0x03
    return IPv6Address(bytes(prefix) + (1).to_bytes(8, "big"))


# --- tokens ---


def join_token(token: Secret, provider_id: str, version: Literal["v1", "v2"]) -> Secret:
    """
    A token that says which provider the machine belongs to, signed with the plain one; one that says it already stays as it is.

    v1 is signed with the token that all machines share, v2 with the provider's own.
    """
    plain = token.reveal()
    if plain.startswith(("v1:", "v2:")):
        return token
    extra_data = {_PROVIDER_LABEL: provider_id}
    signature = hmac.digest(plain.encode(), _json(extra_data), "sha256")
    whole = {"extra_data": extra_data, "signature": base64.b64encode(signature).decode()}
    return Secret(f"{version}:{base64.b64encode(_json(whole)).decode()}")


def _json(value: Mapping[str, object]) -> bytes:
    """As Go writes it."""
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


# --- documents ---


@dataclass(frozen=True)
class ConnectionParameters:
    """What an Omni without `ProviderJoinConfig` tells: `token` is finished, as `join_token` gives it."""

    api_url: str
    token: Secret
    events_port: int
    logs_port: int
    is_tunnelled: bool = False
    """WireGuard inside gRPC, where UDP does not get through."""

    @property
    def machine_api(self) -> str:
        """The URL of Omni's machine API with the token in it; the parameters of a query are in order, as Go has them."""
        url = urlsplit(self.api_url)
        query = [*parse_qsl(url.query, keep_blank_values=True), ("jointoken", self.token.reveal())]
        query += [("grpc_tunnel", "true")] if self.is_tunnelled else []
        return url._replace(query=urlencode(sorted(query, key=lambda pair: pair[0]))).geturl()

    @property
    def events(self) -> str:
        """Where machines tell what happens to them."""
        return f"[{omni_address()}]:{self.events_port}"

    @property
    def logs(self) -> str:
        """Where kernels log to."""
        return f"tcp://[{omni_address()}]:{self.logs_port}"


def join_documents(parameters: ConnectionParameters) -> str:
    """The documents that `ProviderJoinConfig` has in a newer Omni, to the byte."""
    return "---\n".join(
        (
            f"apiVersion: v1alpha1\nkind: SideroLinkConfig\napiUrl: {parameters.machine_api}\n",
            f"apiVersion: v1alpha1\nkind: EventSinkConfig\nendpoint: '{parameters.events}'\n",
            f"apiVersion: v1alpha1\nkind: KmsgLogConfig\nname: {LOG_NAMES[0]}\nurl: {parameters.logs}\n",
        )
    )


def join_arguments(parameters: ConnectionParameters) -> tuple[str, ...]:
    """The same as kernel arguments."""
    return (
        f"siderolink.api={parameters.machine_api}",
        f"talos.events.sink={parameters.events}",
        f"talos.logging.kernel={parameters.logs}",
    )


def trusted_roots(ca_pem: str) -> str:
    """A document that makes Talos and its agent trust our CA."""
    lines = [line for line in ca_pem.splitlines() if line]
    if not lines or not all(re.fullmatch(r"[!-~][ -~]*", line) for line in lines):
        raise PermanentError("the CA certificate is not in PEM", hint="check the file, or let Bootwright make a CA")
    certificates = "".join(f"  {line}\n" for line in lines)
    return f"apiVersion: v1alpha1\nkind: TrustedRootsConfig\nname: {OUR_CA}\ncertificates: |\n{certificates}"


def machine_config(join: str, *others: str) -> Secret:
    """
    All that a machine gets: the documents that make it join, as they are, then others. Without a machine section Talos applies it
    and stays in maintenance, which is what its agent needs.

    It is a secret, because the token is in it. Machines on the provisioning network get it all the same.
    """
    return Secret("---\n".join(document for text in (join, *others) for document in _documents(text)))


def _documents(text: str) -> Iterator[str]:
    """
    The documents of a stream that have something in them, without directives: those must follow the end of a document, and say
    nothing that Talos needs. No scalar of YAML has its marks at the start of a line.
    """
    for document in re.split(r"^---(?=\s|\Z)", text.replace("\r\n", "\n"), flags=re.MULTILINE):
        lines = [line for line in document.strip("\n").split("\n") if not re.match(r"\.\.\.(\s|\Z)|%", line)]
        if any(line.strip() and line[0] != "#" for line in lines):
            yield "\n".join(lines) + "\n"


def refuse_overrides(documents: Iterable[object]) -> None:
    """
    Check the operator's extra documents, as they were read.

    Raises:
        SettingsError: If one would stand in for what makes a machine join, or Talos would refuse them all for it; names all.
    """
    problems: list[str] = []
    seen: set[tuple[str, str]] = set()
    for number, document in enumerate(documents, 1):
        problems += [f"document {number}: {why}" for why in _problems(document)]
        if isinstance(document, dict):
            known_as = str(document.get("kind")), str(document.get("name"))
            if known_as in seen:
                problems.append(f"document {number}: there is another {' '.join(known_as).removesuffix(' None')}")
            seen.add(known_as)
    if problems:
        raise SettingsError(
            "\n".join(["the extra machine configuration cannot be used:", *problems]),
            hint="take them out: how machines join, and our CA, are Bootwright's to say",
        )


_JOINING = {"siderolinkconfig": "SideroLinkConfig", "eventsinkconfig": "EventSinkConfig"}
"""By their names in lower case: Talos knows no such kind then, and refuses every document for it."""


def _problems(document: object) -> Iterator[str]:
    match document:
        case None:
            return
        case {"machine": _} | {"cluster": _} | {"debug": _} | {"persist": _} | {"kind": "v1alpha1"}:
            yield "a machine configuration is Omni's to give"
        case {"kind": str(kind)} if kind.lower() in _JOINING:
            yield f"{_JOINING[kind.lower()]} makes machines join"
        case {"kind": str(kind), "name": str(name)} if kind.lower() == "kmsglogconfig" and name in LOG_NAMES:
            yield f"KmsgLogConfig {name} takes the kernel's log to Omni"
        case {"kind": str(kind), "name": str(name)} if kind.lower() == "trustedrootsconfig" and name == OUR_CA:
            yield f"TrustedRootsConfig {OUR_CA} is ours"
        case {"kind": str(kind), "apiVersion": str(version)} if kind and version:
            return
        case {"version": _}:
            yield "a machine configuration is Omni's to give"
        case _:
            yield "it has no apiVersion and kind"


# --- kernel arguments ---


def config_argument(address: str) -> str:
    """Where Talos gets its configuration from; `address` is host and port. Talos, or iPXE before it, fills in the UUID."""
    return f"talos.config=http://{address}/config?u=${{uuid}}"


def inline_argument(compressed: bytes) -> str:
    """
    A whole configuration on the command line; `compressed` is zstd's.

    It takes the place of the one of `config_argument`, and must have all documents.
    """
    return f"talos.config.inline={base64.b64encode(compressed).decode()}"


def agent_arguments(
    address: str, *, is_tls: bool, is_test: bool = False, is_unverified: bool = False
) -> tuple[str, ...]:
    """
    Where Sidero's agent finds us.

    `address` is host and port: without TLS the host must be an IP address, because the agent takes `name:port` for a scheme.
    """
    return (
        f"metal.provider.address={'https://' if is_tls else ''}{address}",
        *(("metal.provider.test.mode=1",) if is_test else ()),
        *(("metal.provider.tls.skip.verify=1",) if is_unverified else ()),
    )


def check_length(arguments: Sequence[str], room: int = 0) -> None:
    """
    Check that a kernel reads all of its command line; `room` is for what others add to it.

    Linux of amd64 and arm64 reads 2,047 bytes, and forgets the rest without a word. (Talos' documents have said 4,096.)

    Raises:
        PermanentError: If it would not; names the longest argument.
    """
    length = len(" ".join(arguments).encode()) + room
    if length <= ipxe.MOST_LINE_BYTES:
        return
    longest = max(arguments, key=len)
    raise PermanentError(
        f"the kernel command line would have {length} bytes, and a kernel reads {ipxe.MOST_LINE_BYTES};"
        f" the longest argument is {longest.split('=')[0][:80]} with {len(longest)}",
        hint="use a CA certificate with an elliptic curve key and a short name, or fewer extra documents and kernel arguments",
    )
