"""
The worker process of `redfish.py`, and the only module that imports sushy and what sushy speaks HTTP with.

sushy brings what it learned from hardware: one connection a request, ETags that do not match, odd encodings, sessions that
end. It trusts the BMC with our memory and our time: answers are read whole, redirects turn a POST into a GET and may lead
anywhere, and a call that was not answered is made again, which could reset a machine twice. `_Connector` closes these.

Basic authentication comes first, since it leaves nothing behind on a BMC that has room for a handful of sessions; a session is
for BMCs that refuse it, and is closed after each call.
"""

from __future__ import annotations

import contextlib
import io
import logging
import ssl
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urljoin, urlsplit

import sushy
from requests import exceptions as http_errors
from requests.adapters import HTTPAdapter
from sushy import exceptions
from sushy.auth import AuthBase, BasicAuth, SessionAuth
from sushy.connector import Connector
from sushy.resources.system.system import System

from provider.bmc import children
from provider.domain.bmc import NextBoot, PowerAction
from provider.domain.errors import NotFoundError, PermanentError
from provider.domain.inventory import FirmwareKind
from provider.planning import redfish

LARGEST_ANSWER = 1 << 20
"""Bytes; a system's document has about 20 kB."""

MOST_REDIRECTS = 4

_BUSY_PAUSE = 2.0  # seconds

_BUSY_RESERVE = 4.0  # seconds before the deadline, after which a busy BMC is not asked again


class _Adapter(HTTPAdapter):  # type: ignore[misc]  # it has no types
    """Reads answers up to a limit, and lets redirects lead to other places of the same BMC only, with what was asked for."""

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        """With a context of our own: in one of urllib3's, the system's authorities are loaded each time, for 20 ms."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False  # What `verify` says comes on top.
        super().init_poolmanager(*args, **options, ssl_context=context)

    def send(self, request: Any, *args: Any, **options: Any) -> Any:
        response = super().send(request, *args, **{**options, "stream": True})
        whole = io.BytesIO()
        for piece in response.iter_content(1 << 16):
            if whole.tell() + len(piece) > LARGEST_ANSWER:
                response.close()
                raise http_errors.InvalidHeader(f"an answer of more than {LARGEST_ANSWER} bytes")
            whole.write(piece)
        response.close()
        whole.seek(0)
        response.raw = whole
        response._content, response._content_consumed = False, False  # noqa: SLF001 - to be read once more, from `whole`
        if response.is_redirect:
            there = urlsplit(urljoin(request.url, response.headers["Location"]))
            if there[:2] != urlsplit(request.url)[:2]:
                raise http_errors.InvalidURL(f"it sends us away, to {there.scheme}://{there.netloc}")
            if response.status_code in (301, 302):
                response.status_code = 308  # Else a POST would go on as a GET (edge case 109).
        return response


class _Connector(Connector):  # type: ignore[misc]  # it has no types
    """One call's way to a BMC. A request is made once; only a GET that the BMC fails at (5xx) is made again."""

    def __init__(self, request: Mapping[str, Any]) -> None:
        seconds = request["seconds"]
        super().__init__(
            request["url"],
            verify=_trusted(request["verify"], request["ca_file"]),
            server_side_retries=1,  # And no more than one try, which zero would not mean.
            server_side_retries_delay=1,
            default_request_timeout=seconds,
            connect_timeout=seconds / 2,
        )
        self.tokens: list[str] = []
        self._session.trust_env = False  # No proxy, no ~/.netrc.
        self._session.max_redirects = MOST_REDIRECTS
        self._session.mount(request["url"], _Adapter())

    def _op(self, method: str, path: str = "", *args: Any, **options: Any) -> Any:
        """
        Without its slash at the end, or with one, where there is nothing at `path` (edge case 108).

        Documents name places by paths, and some by URLs; wherever those lead, it is this BMC that has our password.
        """
        path = urlsplit(path).path
        try:
            return super()._op(method, path, *args, **options)
        except exceptions.ResourceNotFoundError:
            other = path.removesuffix("/") if path.endswith("/") else f"{path}/"
            return super()._op(method, other, *args, **options)

    def forget_login(self) -> None:
        """So that a login that was refused is not tried at the door again."""
        self._session.auth = None

    def set_http_session_auth(self, session_auth_token: str) -> None:
        """As it is, and know what not to tell."""
        self.tokens.append(session_auth_token)
        super().set_http_session_auth(session_auth_token)


def _trusted(verify: bool, ca_file: str | None) -> bool | str:
    """Whose certificates are good: the system's authorities, where no other ones are named."""
    paths = ssl.get_default_verify_paths()
    return verify and (ca_file or paths.cafile or paths.capath or True)


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    logging.disable(logging.CRITICAL)  # sushy tells its log what a BMC said; so do we, once.
    connector = _Connector(request)
    try:
        return _perform(connector, request)
    except Exception as error:  # noqa: BLE001 - sushy trusts the shapes of documents, so any of them may come of a bad one
        kind, text = _failure(error, request["call"])
        secrets = redfish.secrets(request["user"], request["password"], connector.tokens)
        return {"failed": kind, "error": redfish.told(text, secrets)}


def _perform(connector: _Connector, request: Mapping[str, Any]) -> dict[str, Any]:
    if request["session"]:
        return _perform_in_session(connector, request)
    try:
        return _perform_logged_in(connector, request)
    except exceptions.AccessError as error:
        if error.status_code != 401:
            raise
        refused = error
    connector.forget_login()
    try:
        return _perform_in_session(connector, request)
    except (_NotRedfishError, exceptions.MissingXAuthToken):
        raise refused from None


def _perform_logged_in(connector: _Connector, request: Mapping[str, Any]) -> dict[str, Any]:
    """By Basic authentication. Where the system is known, no other document is asked for: a read is one request then."""
    path = request["path"]
    if path:
        connector.set_http_basic_auth(request["user"], request["password"])
    else:
        path = _path(_service(connector, request, BasicAuth(request["user"], request["password"])), request)
    return {**_perform_on(path, connector, request), "path": path, "session": False}


def _perform_in_session(connector: _Connector, request: Mapping[str, Any]) -> dict[str, Any]:
    auth = SessionAuth(request["user"], request["password"])
    service = _service(connector, request, auth)
    try:
        path = request["path"] or _path(service, request)
        return {**_perform_on(path, connector, request), "path": path, "session": True}
    finally:
        with contextlib.suppress(exceptions.SushyError):
            auth.close()


class _NotRedfishError(Exception):
    """Whatever listens there, it has no service root, or no sessions."""


def _service(connector: _Connector, request: Mapping[str, Any], auth: AuthBase) -> sushy.Sushy:
    try:
        service = sushy.Sushy(request["url"], auth=auth, connector=connector)
    except (exceptions.AccessError, exceptions.ServerSideError):
        raise
    except (ValueError, AttributeError, TypeError, exceptions.HTTPError, exceptions.MissingAttributeError) as error:
        raise _NotRedfishError(str(error)) from error
    if not isinstance(service.redfish_version, str):
        raise _NotRedfishError("its service root tells no RedfishVersion")
    return service


def _path(service: sushy.Sushy, request: Mapping[str, Any]) -> str:
    """Of the system that is wanted. Not by sushy's list, which fetches every system there is."""
    return redfish.chosen_system(service.get_system_collection().members_identities, request["system"])


def _perform_on(path: str, connector: _Connector, request: Mapping[str, Any]) -> dict[str, Any]:
    until = time.monotonic() + request["seconds"] - _BUSY_RESERVE
    match request["call"]:
        case "read":
            return {"power": redfish.power_state(connector.get(path).json().get("PowerState")).value}
        case "act":
            system = System(connector, path)
            _patiently(lambda: _act(system, PowerAction(request["action"])), until)
        case "boot":
            _patiently(lambda: _set_next_boot(connector, path, request), until)
    return {}


def _patiently(call: Callable[[], None], until: float) -> None:
    """Again while the BMC is busy with what came before, as long as there is time for it."""
    while True:
        try:
            return call()
        except exceptions.HTTPError as error:
            if time.monotonic() >= until or not redfish.is_busy(error.status_code, str(error)):
                raise
            time.sleep(_BUSY_PAUSE)


def _act(system: System, action: PowerAction) -> None:
    state = redfish.power_state(system.json.get("PowerState"))
    allowed = sorted(reset.value for reset in system.get_allowed_reset_system_values())
    reset = redfish.reset_type(action, state, allowed)
    try:
        # Whatever the state: some tell a wrong one (edge case 122).
        system.reset_system(sushy.ResetType(reset))
    except exceptions.HTTPError as error:
        if error.status_code in (401, 403) or error.status_code >= 500:
            raise
        system.refresh(force=True)
        if not redfish.is_moot(action, redfish.power_state(system.json.get("PowerState"))):
            raise


def _set_next_boot(connector: _Connector, path: str, request: Mapping[str, Any]) -> None:
    """Where the settings of the next boot are, if they have overrides (edge case 97), or where the BMC sends us (96)."""
    system = connector.get(path)
    future = redfish.settings_path(system.json())
    resource = None if future is None else _overrides(connector, future)
    try:
        _override(connector, resource or system, request)
    except exceptions.HTTPError as error:
        if redfish.FUTURE_STATE not in str(error):
            raise
        _override(connector, connector.get(future or f"{path}/SD"), request)


def _overrides(connector: _Connector, path: str) -> Any:
    """The resource at `path`, if it has boot overrides."""
    try:
        resource = connector.get(path)
    except exceptions.ResourceNotFoundError:
        return None
    return resource if "BootSourceOverrideTarget" in (resource.json().get("Boot") or {}) else None


def _override(connector: _Connector, resource: Any, request: Mapping[str, Any]) -> None:
    """
    Change what `resource`, as we just got it, says about the next boot.

    With its ETag; after a 412, sushy tries the other form of it, and then none (edge case 106).
    """
    document = resource.json()
    firmware = None if request["firmware"] is None else FirmwareKind(request["firmware"])
    etag = redfish.etag(resource.headers.get("ETag"), document)
    boots = redfish.boot_overrides(
        NextBoot(request["device"]), firmware, document.get("Boot") or {}, sets_mode=request["override_mode"]
    )
    while True:
        boot = boots.pop(0)
        try:
            connector.patch(urlsplit(resource.url).path, data={"Boot": boot}, etag=etag)
        except exceptions.HTTPError as error:
            if not boots or not redfish.is_refusal(error.status_code, str(error)):
                raise
        else:
            return


def _failure(error: Exception, call: str) -> tuple[str, str]:
    """What kind of failure it is, for `redfish.py`, and what there is to say about it."""
    match error:
        case _NotRedfishError():
            return "other", str(error)
        case NotFoundError():
            return "system", str(error)
        case PermanentError():
            return "refused", str(error)
        case exceptions.AccessError():
            return ("login" if error.status_code == 401 else "rights"), _said(error)
        case exceptions.ResourceNotFoundError():
            return "system", str(error)
        case exceptions.HTTPError():
            # A boot override that is busy for ever must not keep anybody from switching the machine.
            waits = redfish.is_busy(error.status_code, str(error)) and not (call == "boot" and error.status_code == 409)
            return ("busy" if waits or error.status_code >= 500 else "refused"), _said(error)
        case exceptions.ConnectionError():
            return _unreached(error)
        case exceptions.MissingActionError() | exceptions.InvalidParameterValueError():
            return "refused", str(error)
    return "nonsense", f"{type(error).__name__}: {error}"


def _said(error: exceptions.HTTPError) -> str:
    return f"{error.status_code} {error.code}: {error.detail}" if error.detail else f"status {error.status_code}"


def _unreached(error: Exception) -> tuple[str, str]:
    """Where nothing came back: the innermost reason says it best."""
    reason: BaseException = error
    was_tls = False
    while inner := _inner(reason):
        reason = inner
        was_tls = was_tls or isinstance(reason, http_errors.SSLError)
    text = getattr(reason, "verify_message", None) or getattr(reason, "strerror", None) or str(reason)
    match reason:
        case ssl.SSLCertVerificationError():
            return "certificate", text
        case ssl.SSLError():
            return "tls", text
        case http_errors.TooManyRedirects() | http_errors.InvalidURL():
            return "other", text
        case http_errors.InvalidHeader():
            return "nonsense", text
    # The name in a certificate is compared by urllib3.
    return ("certificate" if was_tls else "silent"), text


def _inner(error: BaseException) -> BaseException | None:
    """`requests` and urllib3 keep the reason in their own ways."""
    candidates = (getattr(error, "reason", None), *error.args, error.__cause__, error.__context__)
    return next((each for each in candidates if isinstance(each, BaseException)), None)


if __name__ == "__main__":
    children.serve(_answer)
