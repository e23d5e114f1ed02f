"""A session with Salesforce over HTTP: logged in by OAuth, renewed when it has ended, its errors made ours.

Not by simple-salesforce's own session, which takes any status for data or an exception of its own, keeps no headers
and holds whole results in memory; its quoting of values is used.

===========================================  ==============================================
answer                                       error
===========================================  ==============================================
OAuth: invalid_client, invalid_grant, ...    configuration, LOGIN_REFUSED
401 INVALID_SESSION_ID                       a new login, once; then retriable, SESSION_ENDED
a redirection: the org has another address   configuration, HOST_MOVED
NOT_FOUND, of a query job                    retriable, JOB_GONE
INVALID_TYPE, NOT_FOUND                      configuration, OBJECT_MISSING
INVALID_FIELD                                configuration, FIELD_MISSING
INSUFFICIENT_ACCESS, API_DISABLED_FOR_ORG    configuration, GRANT_MISSING
REQUEST_LIMIT_EXCEEDED, or near to it        retriable, LIMIT_NEAR, after an hour
QUERY_TIMEOUT, UNABLE_TO_LOCK_ROW, 429, 5xx  retriable, BUSY, after what Retry-After says
no answer, or a part of one                  retriable, UNREACHABLE
no such host                                 configuration, HOST_UNKNOWN
anything else, such as MALFORMED_QUERY       fatal, FAILED
===========================================  ==============================================

All codes begin with ``SALESFORCE_``.
"""

from __future__ import annotations

import re
import socket
from decimal import Decimal
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import requests

from batch_adapters.errors import AdapterError, ConfigurationAdapterError, FatalAdapterError, RetriableAdapterError

if TYPE_CHECKING:
    from batch_adapters.salesforce import SalesforceLogin

_USED: Final = re.compile(r"api-usage=(\d+)/(\d+)")
_AN_HOUR: Final = 3600.0
_PASSING: Final = frozenset({"QUERY_TIMEOUT", "UNABLE_TO_LOCK_ROW", "SERVER_UNAVAILABLE", "UNKNOWN_EXCEPTION"})
# By Salesforce's code: ours, its sentence's beginning and the way out.
_OBJECT: Final = ("OBJECT_MISSING", "There is no such object, or the user may not see it:", "Check its API name.")
_GRANT: Final = ("GRANT_MISSING", "The user may not read", "Grant it API Enabled, and View All on the object.")
_CONFIGURATION: Final = {
    **dict.fromkeys(("INVALID_TYPE", "NOT_FOUND"), _OBJECT),
    **dict.fromkeys(("INSUFFICIENT_ACCESS", "API_DISABLED_FOR_ORG", "API_CURRENTLY_DISABLED", "FORBIDDEN"), _GRANT),
    "INVALID_FIELD": ("FIELD_MISSING", "A field is gone from", "Start the stream again."),
}


class SalesforceSession:
    """A session, begun when it is first needed.

    Args:
        login: the login.
        what: the object that it is for, named in errors.
    """

    def __init__(self, login: SalesforceLogin, what: str) -> None:
        self._login, self._what = login, what
        self._line = requests.Session()
        self._token: str | None = None
        self._used = 0.0  # the share of the org's daily calls

    def call(self, method: str, path: str, **more: Any) -> requests.Response:
        """One call; `path` is relative to the API, or begins with a slash.

        Raises:
            AdapterError: see the module.
        """
        if self._used >= self._login.max_api_share:
            raise RetriableAdapterError(
                "SALESFORCE_LIMIT_NEAR",
                f"{self._used:.0%} of the org's API calls of the last 24 hours are used.",
                "The pull goes on when there are fewer; max_api_share says how many may be.",
                retry_after=_AN_HOUR,
            )
        answer = self._send(method, path, **more)
        if answer.status_code == HTTPStatus.UNAUTHORIZED:
            self._token = None  # it has ended; a new login, once
            answer = self._send(method, path, **more)
        used = _USED.search(answer.headers.get("Sforce-Limit-Info", ""))
        if used:
            self._used = int(used[1]) / max(int(used[2]), 1)
        if not answer.ok:
            raise self._refused(answer)
        return answer

    def json(self, path: str, method: str = "GET", **more: Any) -> dict[str, Any]:
        """One call that is answered by JSON; numbers with a point are decimals."""
        answer = self.call(method, path, **more)
        try:
            return dict(answer.json(parse_float=Decimal))
        except ValueError:
            raise RetriableAdapterError("SALESFORCE_UNREACHABLE", f"An answer for {self._what} was cut.") from None

    def user_id(self) -> str:
        """Who is logged in."""
        return str(self.json("/services/oauth2/userinfo")["user_id"])

    def close(self) -> None:
        """Let the lines go."""
        self._line.close()

    def _send(self, method: str, path: str, **more: Any) -> requests.Response:
        if self._token is None:
            self._token = self._log_in()
        url = path if path.startswith("/") else f"/services/data/v{self._login.api_version}/{path}"
        return self._request(method, url, headers={"Authorization": f"Bearer {self._token}"}, **more)

    def _log_in(self) -> str:
        login = self._login
        said = {"client_id": login.consumer_key, "client_secret": login.consumer_secret}
        if login.username is None:
            said["grant_type"] = "client_credentials"
        else:
            secret = f"{login.password}{login.security_token or ''}"
            said |= {"grant_type": "password", "username": login.username, "password": secret}
        answer = self._request("POST", "/services/oauth2/token", data=said)
        if answer.ok:
            return str(answer.json()["access_token"])
        if answer.status_code in (HTTPStatus.BAD_REQUEST, HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            raise ConfigurationAdapterError(
                "SALESFORCE_LOGIN_REFUSED",
                f"Salesforce refused the login at {login.instance_url} ({_code(answer, 'error')}).",
                "Check the connected app's key, secret and flow, and the user's name, password and token.",
            )
        raise self._refused(answer)

    def _request(self, method: str, path: str, **more: Any) -> requests.Response:
        url = f"{self._login.instance_url}{path}"
        try:
            # The body is read here; one that is shorter than it says is an error of the line.
            answer = self._line.request(method, url, timeout=self._login.timeout_seconds, allow_redirects=False, **more)
        except requests.RequestException as error:  # not its text, which has the URL with the query
            self._check_host()
            raise RetriableAdapterError(
                "SALESFORCE_UNREACHABLE", f"Salesforce did not answer for {self._what} ({type(error).__name__})."
            ) from None
        if answer.ok and answer.status_code >= HTTPStatus.MULTIPLE_CHOICES:  # not followed: it would take secrets along
            raise ConfigurationAdapterError(
                "SALESFORCE_HOST_MOVED", f"{self._login.instance_url} is not the org's own address, or no longer."
            )
        return answer

    def _check_host(self) -> None:
        host = urlsplit(self._login.instance_url).hostname
        try:
            socket.getaddrinfo(host, None)
        except (socket.gaierror, UnicodeError) as error:
            if getattr(error, "errno", socket.EAI_NONAME) == socket.EAI_NONAME:
                raise ConfigurationAdapterError("SALESFORCE_HOST_UNKNOWN", f"There is no host {host!r}.") from None

    def _refused(self, answer: requests.Response) -> AdapterError:
        code, status, what = _code(answer, "errorCode"), answer.status_code, self._what
        shown = f"({status} {code})" if code else f"({status})"
        if code == "REQUEST_LIMIT_EXCEEDED":
            return RetriableAdapterError(
                "SALESFORCE_LIMIT_NEAR", "The org's API calls of the last 24 hours are used up.", retry_after=_AN_HOUR
            )
        if status == HTTPStatus.UNAUTHORIZED:
            return RetriableAdapterError("SALESFORCE_SESSION_ENDED", f"The session for {what} ends at once {shown}.")
        if status == HTTPStatus.TOO_MANY_REQUESTS or status >= HTTPStatus.INTERNAL_SERVER_ERROR or code in _PASSING:
            asked = answer.headers.get("Retry-After", "")
            return RetriableAdapterError(
                "SALESFORCE_BUSY",
                f"Salesforce is busy, for {what} {shown}.",
                retry_after=float(asked) if asked.isdecimal() else None,
            )
        if code == "NOT_FOUND" and "/jobs/query/" in answer.url:
            return RetriableAdapterError("SALESFORCE_JOB_GONE", f"A query job for {what!r} is gone {shown}.")
        if code not in _CONFIGURATION:
            return FatalAdapterError("SALESFORCE_FAILED", f"A call for {what!r} failed {shown}.")
        ours, sentence, way_out = _CONFIGURATION[code]
        return ConfigurationAdapterError(f"SALESFORCE_{ours}", f"{sentence} {what!r} {shown}.", way_out)


def _code(answer: requests.Response, name: str) -> str:
    """The error's code; an answer may be a list, a mapping, or no JSON."""
    try:
        said = answer.json()
        found = said[0] if isinstance(said, list) else said
        return str(found.get(name, ""))
    except (ValueError, LookupError, AttributeError):
        return ""
