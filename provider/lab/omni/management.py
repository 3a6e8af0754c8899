"""The gRPC service management.ManagementService: accounts for administrators, power for operators."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf.empty_pb2 import Empty

from provider.lab.omni import names, protos, resources
from provider.lab.omni.accounts import Accounts, Caller, Role
from provider.lab.omni.protos import Message
from provider.lab.omni.resources import CallError, Resource
from provider.lab.omni.service import Calls, Unary
from provider.lab.omni.state import State

SERVICE = "management.ManagementService"


class ManagementService:
    """The methods of ManagementService that a static provider's users need."""

    def __init__(self, state: State, accounts: Accounts) -> None:
        self._state = state
        self._accounts = accounts
        self._messages = protos.load().management

    def handler(self, calls: Calls) -> grpc.GenericRpcHandler:
        """For a gRPC server."""
        methods: dict[str, Unary] = {
            "CreateServiceAccount": self.create_account,
            "RenewServiceAccount": self.renew_account,
            "DestroyServiceAccount": self.destroy_account,
            "MachinePowerOff": self.power_off,
            "MachinePowerOn": self.power_on,
        }
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {name: calls.unary(f"/{SERVICE}/{name}", self._request(name), each) for name, each in methods.items()},
        )

    def _request(self, name: str) -> Any:
        return getattr(self._messages, f"{name}Request")

    async def create_account(self, caller: Caller, request: Message) -> Message:
        """A new account with its first key."""
        _check_role(caller, "Admin")
        role = caller.role if request.use_user_role else request.role
        made = self._accounts.create(request.name, role, request.armored_pgp_public_key)
        return self._messages.CreateServiceAccountResponse(public_key_id=made)

    async def renew_account(self, caller: Caller, request: Message) -> Message:
        """A further key of an account: not for providers."""
        _check_role(caller, "Admin")
        made = self._accounts.renew(request.name, request.armored_pgp_public_key)
        return self._messages.RenewServiceAccountResponse(public_key_id=made)

    async def destroy_account(self, caller: Caller, request: Message) -> Message:
        """The end of an account."""
        _check_role(caller, "Admin")
        self._accounts.destroy(request.name)
        return Empty()

    async def power_off(self, caller: Caller, request: Message) -> Message:
        """Ask the provider to leave a machine off. That Omni shuts it down, too, is the stand-in machine's affair."""
        _check_role(caller, "Operator")
        request_power_off(self._state, request.machine_id)
        return self._messages.MachinePowerOffResponse()

    async def power_on(self, caller: Caller, request: Message) -> Message:
        """Take that back."""
        _check_role(caller, "Operator")
        _change_request(self._state, request.machine_id, "")
        return self._messages.MachinePowerOnResponse()


def request_power_off(state: State, machine: str) -> None:
    """
    Write a new power-off request into the user's configuration of a machine.

    Raises:
        CallError: NOT_FOUND without a link, FAILED_PRECONDITION without a configuration, UNKNOWN if it is not accepted.
    """
    _change_request(state, machine, str(uuid.uuid4()))


def _change_request(state: State, machine: str, request: str) -> None:
    if state.find(names.DEFAULT, names.LINK, machine) is None:
        raise CallError(grpc.StatusCode.NOT_FOUND, "machine not found")
    current = state.find(names.DEFAULT, names.USER_CONFIG, machine)
    if current is None:
        text = "infra machine config not found, cannot set machine power-off request"
        raise CallError(grpc.StatusCode.FAILED_PRECONDITION, text)
    spec = resources.spec_of(current)
    if spec.acceptance_status != 1:
        text = "failed to update infra machine config: infra machine config is not accepted yet"
        raise CallError(grpc.StatusCode.UNKNOWN, text)
    spec.power_off_request_id = request
    change: Callable[[Resource], Resource] = lambda resource: resources.with_spec(resource, spec)  # noqa: E731 - for its type
    state.modify(current, change)


def _check_role(caller: Caller, role: Role) -> None:
    if not caller.has(role):
        text = f'access denied: insufficient role: "{caller.role}"'
        raise CallError(grpc.StatusCode.PERMISSION_DENIED, text)
