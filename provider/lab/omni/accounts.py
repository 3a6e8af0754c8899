"""Service accounts: who holds which key, in the resources that Omni keeps them in."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import grpc

from provider.lab.omni import keys, names, protos, resources
from provider.lab.omni.resources import CallError, Resource
from provider.lab.omni.state import State

Role = Literal["None", "InfraProvider", "Reader", "Auditor", "Operator", "Admin"]
ROLES: tuple[Role, ...] = ("None", "InfraProvider", "Reader", "Auditor", "Operator", "Admin")
"""In their order: each may do what those before it may."""

_DOMAIN = "serviceaccount.omni.sidero.dev"
_PROVIDER_DOMAIN = f"infra-provider.{_DOMAIN}"
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a call, as its signature proves."""

    identity: str
    role: Role

    @property
    def provider(self) -> str:
        """The id of the infra provider that it is, else empty."""
        name, _, domain = self.identity.partition("@")
        return name if domain == _PROVIDER_DOMAIN else ""

    def has(self, role: Role) -> bool:
        """Whether its role is that one or a higher one."""
        return ROLES.index(self.role) >= ROLES.index(role)


def identity_of(name: str) -> str:
    """The mail address of an account; `infra-provider:bm` is a provider's."""
    if name.startswith(names.PRIVATE_PREFIX):
        return f"{name.removeprefix(names.PRIVATE_PREFIX)}@{_PROVIDER_DOMAIN}"
    return f"{name}@{_DOMAIN}"


def is_dns_label(name: str) -> bool:
    """Whether a name may be that of a provider (RFC 1123)."""
    return _LABEL.fullmatch(name) is not None


class Accounts:
    """Accounts and their keys; certificates are read once and kept as long as their key is registered."""

    def __init__(self, state: State, now: Callable[[], datetime]) -> None:
        self._state = state
        self._now = now
        self._certificates: dict[str, tuple[bytes, keys.Certificate]] = {}
        self.suspended = False
        """The whole Omni account: every caller becomes a Reader."""

    def create(self, name: str, role: str, armored: str) -> str:
        """
        Make an account with its first key; gives the key's fingerprint.

        Raises:
            CallError: ALREADY_EXISTS, or UNKNOWN as Omni answers with an error without a code.
        """
        known = next((each for each in ROLES if each == role), None)
        is_provider = name.startswith(names.PRIVATE_PREFIX)
        if known is None:
            raise CallError(grpc.StatusCode.UNKNOWN, f'unknown role to parse: "{role}"')
        if is_provider and known != "InfraProvider":
            text = 'infra-provider service accounts must have the role "InfraProvider"'
            raise CallError(grpc.StatusCode.UNKNOWN, text)
        if known == "InfraProvider" and not is_provider:
            text = 'service accounts with role "InfraProvider" must be prefixed with "infra-provider:"'
            raise CallError(grpc.StatusCode.UNKNOWN, text)
        identity = identity_of(name)
        if self._state.find(names.DEFAULT, names.IDENTITY, identity):
            raise CallError(grpc.StatusCode.ALREADY_EXISTS, f'service account "{identity}" already exists')
        user = str(uuid.uuid4())
        fingerprint = self._register(identity, user, known, armored)
        specs = protos.load().specs
        self._add(names.IDENTITY, identity, specs.IdentitySpec(user_id=user), user)
        self._add(names.USER, user, specs.UserSpec(role=known), user)
        return fingerprint

    def renew(self, name: str, armored: str) -> str:
        """
        Give an account a further key.

        Raises:
            CallError: NOT_FOUND, or what `create` raises for the key.
        """
        identity = identity_of(name)
        found = resources.spec_of(self._state.get(names.DEFAULT, names.IDENTITY, identity))
        role = resources.spec_of(self._state.get(names.DEFAULT, names.USER, found.user_id)).role
        return self._register(identity, found.user_id, role, armored)

    def destroy(self, name: str) -> None:
        """
        Remove an account and all its keys.

        Raises:
            CallError: NOT_FOUND.
        """
        identity = identity_of(name)
        user = resources.spec_of(self._state.get(names.DEFAULT, names.IDENTITY, identity)).user_id
        for kind in (names.PUBLIC_KEY, names.IDENTITY, names.USER):
            for resource in self._state.list(names.DEFAULT, kind):
                if resource.labels.get(names.USER_ID_LABEL) == user:
                    self._state.destroy(resource.namespace, resource.type, resource.id)

    def exists(self, name: str) -> bool:
        """Whether there is such an account."""
        return self._state.find(names.DEFAULT, names.IDENTITY, identity_of(name)) is not None

    def holder(self, fingerprint: str) -> tuple[Caller, keys.Certificate]:
        """
        Whose key it is.

        Raises:
            ValueError: If nobody's: unknown, revoked or expired.
        """
        resource = self._state.find(names.DEFAULT, names.PUBLIC_KEY, fingerprint)
        if resource is None:
            self._certificates.pop(fingerprint, None)
            raise ValueError("the key is not registered")
        spec = resources.spec_of(resource)
        if spec.expiration.ToDatetime(UTC) < self._now():
            raise ValueError("public key expired")
        if not spec.confirmed:
            raise ValueError("public key not confirmed")
        user = self._state.find(names.DEFAULT, names.USER, resource.labels.get(names.USER_ID_LABEL, ""))
        if user is None:
            raise ValueError("the key has no user")
        role: Role = min(spec.role, resources.spec_of(user).role, key=ROLES.index)
        caller = Caller(spec.identity.email, "Reader" if self.suspended else role)
        return caller, self._certificate(fingerprint, spec.public_key)

    def _certificate(self, fingerprint: str, armored: bytes) -> keys.Certificate:
        held = self._certificates.get(fingerprint)
        if held is None or held[0] != armored:
            held = self._certificates[fingerprint] = (armored, keys.Certificate(armored))
        return held[1]

    def _register(self, identity: str, user: str, role: Role, armored: str) -> str:
        try:
            certificate = keys.Certificate(armored.encode())
            expires = certificate.check(keys.LIFETIME, self._now())
        except ValueError as error:
            raise CallError(grpc.StatusCode.UNKNOWN, str(error)) from error
        specs = protos.load().specs
        spec = specs.PublicKeySpec(
            public_key=armored.encode(),
            expiration=expires,
            confirmed=True,
            identity=specs.Identity(email=identity),
            role=role,
            type=specs.PublicKeySpec.PGP,
        )
        self._add(names.PUBLIC_KEY, certificate.fingerprint, spec, user)
        return certificate.fingerprint

    def _add(self, kind: str, identity: str, spec: protos.Message, user: str) -> None:
        resource = Resource(names.DEFAULT, kind, identity, labels={names.USER_ID_LABEL: user})
        self._state.create(resources.with_spec(resource, spec))
