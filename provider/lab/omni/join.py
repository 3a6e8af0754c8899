"""
How a machine comes in: join tokens, join documents, and the answer to a machine's Provision call.

After omni:internal/pkg/siderolink/provision.go and client/pkg/jointoken. There is no WireGuard here: a link is a resource.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from urllib.parse import quote

import grpc

from provider.lab.omni import names, protos, resources
from provider.lab.omni.protos import Message
from provider.lab.omni.resources import CallError, Resource
from provider.lab.omni.state import State

SERVER_ADDRESS = "fdae:41e4:649b:9303::1"
"""Omni's own, in its network of machines."""
EVENTS_PORT = 8091
LOGS_PORT = 8092

_FORCE = "omni.sidero.dev/force-valid-unique-token"
"""Annotation of a link: Talos is installed, so the machine must show its token."""
_TALOS_WITHOUT_VERSION = "1.5.0"


class JoinMode(StrEnum):
    """Which machines may join without a token of their own."""

    STRICT = "strict"
    LEGACY_ALLOWED = "legacyAllowed"
    LEGACY = "legacy"


@dataclass(frozen=True)
class JoinRequest:
    """What a machine says of itself."""

    uuid: str
    token: str
    """The join token of its SideroLinkConfig."""
    unique_token: str = ""
    """What META keeps: JSON with `Fingerprint` and `Token`."""
    talos_version: str = ""
    installed: bool = False


@dataclass(frozen=True)
class Joined:
    """What it gets: a link, or the token that it has to come back with."""

    pending: bool
    unique_token: str = ""
    """To be kept in META; only while pending."""
    conflict: bool = False
    """Another machine has this UUID: come back with another one."""


def provider_token(plain: str, provider: str) -> str:
    """The join token, version 2, that Omni issues to a provider."""
    extra = {names.PROVIDER_LABEL: provider}
    signature = base64.b64encode(_sign(plain, extra)).decode()
    body = json.dumps({"extra_data": extra, "signature": signature}, separators=(",", ":"))
    return f"v2:{base64.b64encode(body.encode()).decode()}"


def join_config(machine_api: str, plain: str, provider: str) -> Message:
    """The spec of a ProviderJoinConfig: documents and kernel arguments of the provider's machines."""
    url = f"{machine_api}?jointoken={quote(provider_token(plain, provider), safe='')}"
    events, logs = f"[{SERVER_ADDRESS}]:{EVENTS_PORT}", f"tcp://[{SERVER_ADDRESS}]:{LOGS_PORT}"
    documents = [
        f"apiVersion: v1alpha1\nkind: SideroLinkConfig\napiUrl: {url}\n",
        f"apiVersion: v1alpha1\nkind: EventSinkConfig\nendpoint: '{events}'\n",
        f"apiVersion: v1alpha1\nkind: KmsgLogConfig\nname: omni-kmsg\nurl: {logs}\n",
    ]
    arguments = [f"siderolink.api={url}", f"talos.events.sink={events}", f"talos.logging.kernel={logs}"]
    specs = protos.load().specs
    config = specs.JoinConfig(kernel_args=arguments, config="---\n".join(documents))
    return specs.ProviderJoinConfigSpec(config=config, join_token=plain)


class Joins:
    """Answers machines."""

    def __init__(self, state: State, mode: JoinMode, common_token: Callable[[], str]) -> None:
        self._state = state
        self._mode = mode
        self._common_token = common_token
        self._handed: dict[str, str] = {}
        """Tokens that pending machines have to come back with, by UUID; forgotten when they do."""

    def provision(self, request: JoinRequest) -> Joined:
        """
        Let a machine in, or tell it to come back with a token.

        Raises:
            CallError: PERMISSION_DENIED for tokens that are no good, NOT_FOUND if its provider is missing or going,
                ALREADY_EXISTS while its old link is going, FAILED_PRECONDITION for a Talos that is too old.
        """
        token = self._token(request.token)
        link = self._state.find(names.DEFAULT, names.LINK, request.uuid)
        stored = self._stored_token(request.uuid)
        shown = _unique(request.unique_token)
        secure = _is_secure(request.talos_version or _TALOS_WITHOUT_VERSION)
        if not secure and self._mode is JoinMode.STRICT:
            text = f"Talos version {request.talos_version} is not supported on this Omni instance"
            text += " as '--join-tokens-mode' is set to 'strict'"
            raise CallError(grpc.StatusCode.FAILED_PRECONDITION, text)
        if not secure or self._mode is JoinMode.LEGACY:
            tied = not secure and stored is not None and self._mode is not JoinMode.LEGACY
            if token is None or tied:
                raise _unauthorized()
            self._establish(request, token)
            return Joined(pending=False)
        if token is None and not (stored is not None and shown is not None and stored[1] == shown[1]):
            raise _unauthorized()
        if shown is None:
            self._check_provider(token)
            return Joined(pending=True, unique_token=self._hand_out(request.uuid, stored))
        if stored is not None and not self._may_replace(request.uuid, link, stored, shown):
            return Joined(pending=True, conflict=True)
        self._handed.pop(request.uuid, None)
        self._establish(request, token)
        return Joined(pending=False)

    def _may_replace(self, uuid: str, link: Resource | None, stored: tuple[str, str], shown: tuple[str, str]) -> bool:
        """
        Whether the token shown takes the place of the stored one. The same machine without its token (META was lost) may do
        so, unless Talos is installed on it and the provider has not said that it wiped that very token away.
        """
        status = self._state.find(names.INFRA, names.INFRA_MACHINE_STATUS, uuid)
        wiped = status is not None and _unique(resources.spec_of(status).wiped_node_unique_token) == stored
        forced = link is not None and _FORCE in link.annotations and not wiped
        same_machine = bool(stored[0]) and stored[0] == shown[0]
        if stored[1] == shown[1] or (same_machine and not forced):
            return True
        if same_machine:
            raise _unauthorized()
        return False

    def _establish(self, request: JoinRequest, token: dict[str, str] | None) -> None:
        self._check_provider(token)
        link = self._state.find(names.DEFAULT, names.LINK, request.uuid)
        if link is not None and link.tearing_down:
            text = "the machine with the same UUID is already registered in Omni and is in the tearing down phase"
            raise CallError(grpc.StatusCode.ALREADY_EXISTS, text)
        if request.unique_token:
            spec = protos.load().specs.NodeUniqueTokenSpec(token=request.unique_token)
            empty = Resource(names.DEFAULT, names.UNIQUE_TOKEN, request.uuid)
            self._state.modify(empty, lambda resource: resources.with_spec(resource, spec))

        def connect(resource: Resource) -> Resource:
            spec = resources.spec_of(resource)
            spec.node_subnet = spec.node_subnet or f"{SERVER_ADDRESS[:-1]}{secrets.token_hex(2)}/64"
            spec.node_public_key = base64.b64encode(secrets.token_bytes(32)).decode()  # New on each boot.
            spec.connected = True
            labels = {names.PROVIDER_LABEL: (token or {}).get(names.PROVIDER_LABEL)} if resource.version == 0 else {}
            annotations = {name: value for name, value in resource.annotations.items() if name != _FORCE}
            if request.installed:
                annotations[_FORCE] = ""
            return replace(resources.relabelled(resources.with_spec(resource, spec), labels), annotations=annotations)

        self._state.modify(Resource(names.DEFAULT, names.LINK, request.uuid), connect)

    def _check_provider(self, token: dict[str, str] | None) -> None:
        provider = (token or {}).get(names.PROVIDER_LABEL)
        if provider is None:
            return
        resource = self._state.find(names.INFRA, names.PROVIDER, provider)
        if resource is None or resource.tearing_down:
            text = "the infra provider is being deleted or doesn't exist"
            raise CallError(grpc.StatusCode.NOT_FOUND, text)

    def _hand_out(self, uuid: str, stored: tuple[str, str] | None) -> str:
        """The token that Omni writes into a pending machine's META."""
        fingerprint = stored[0] if stored else hashlib.sha256(uuid.encode()).hexdigest()
        fresh = json.dumps({"Fingerprint": fingerprint, "Token": secrets.token_hex(16)})
        return self._handed.setdefault(uuid, fresh)

    def _stored_token(self, uuid: str) -> tuple[str, str] | None:
        found = self._state.find(names.DEFAULT, names.UNIQUE_TOKEN, uuid)
        return None if found is None else _unique(resources.spec_of(found).token)

    def _token(self, text: str) -> dict[str, str] | None:
        """What a join token says, None if it is not valid."""
        if not text:
            return None
        version, colon, encoded = text.partition(":")
        if not colon or version not in ("v1", "v2"):
            return {} if hmac.compare_digest(text.encode(), self._common_token().encode()) else None
        try:
            body = json.loads(base64.b64decode(encoded, validate=True))
            extra, signature = (
                dict(body.get("extra_data", {})),
                base64.b64decode(body.get("signature", ""), validate=True),
            )
        except (binascii.Error, ValueError, AttributeError, TypeError) as error:
            raise CallError(grpc.StatusCode.PERMISSION_DENIED, f"invalid join token {error}") from error
        plain = self._plain_token(version, extra.get(names.PROVIDER_LABEL, ""))
        return extra if plain is not None and hmac.compare_digest(_sign(plain, extra), signature) else None

    def _plain_token(self, version: str, provider: str) -> str | None:
        """What such a token is signed with: version 2 with the provider's own one."""
        if version == "v1":
            return self._common_token()
        config = self._state.find(names.INFRA, names.JOIN_CONFIG, provider)
        return None if config is None else str(resources.spec_of(config).join_token)


def _sign(plain: str, extra: dict[str, str]) -> bytes:
    message = json.dumps(extra, separators=(",", ":"), sort_keys=True)
    return hmac.digest(plain.encode(), message.encode(), "sha256")


def _unique(text: str) -> tuple[str, str] | None:
    """Fingerprint and token of a node unique token."""
    if not text:
        return None
    try:
        body = json.loads(text)
        return str(body["Fingerprint"]), str(body["Token"])
    except (ValueError, KeyError, TypeError) as error:
        raise CallError(grpc.StatusCode.PERMISSION_DENIED, str(error)) from error


def _is_secure(version: str) -> bool:
    """Whether this Talos keeps a token of its own: since 1.6."""
    parts = version.removeprefix("v").split(".")
    return [int(part) for part in parts[:2] if part.isdigit()] >= [1, 6]


def _unauthorized() -> CallError:
    return CallError(grpc.StatusCode.PERMISSION_DENIED, "unauthorized")
