"""Clients of the protocol, written from the demands of official ones (docs/vendor.md#client-python).

Each refuses what the official client would refuse; a demand that is not met fails the test where it shows.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass, field
from typing import Any

import httpx2

from tests.support.bridge import Bridge

SECONDS = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
ORIGIN = "https://emr.example"


async def login(house: Bridge, key: str | None = None, client_id: str | None = None) -> httpx2.Response:
    """Log in as the house's tenant, or as somebody else."""
    secret = key or house.api.headers["authorization"].removeprefix("Bearer ")
    return await (await house.client(None)).post(
        "/connect-auth/v1/account/login",
        json={"client_id": client_id or house.tenant_id, "client_secret": secret, "sharing_key": "x"},
    )


def envelope(answer: httpx2.Response, status: int, code: str) -> dict[str, Any]:
    """Check that an answer is this error in the protocol's envelope, and return its `error`."""
    assert answer.status_code == status, f"{answer.status_code} instead of {status}: {answer.text[:600]}"
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert set(body) <= {"error", "detail"}, body
    error: dict[str, Any] = body["error"]
    assert error["code"] == code, body
    assert error["message"]
    assert error["details"]["request_id"] == answer.headers["x-request-id"] != ""
    assert no_nulls(body)
    return error


def no_nulls(value: Any) -> bool:
    """Whether nothing in a body is null; a document's own data is the vendor's affair."""
    if isinstance(value, dict):
        return all(name == "data" or no_nulls(each) for name, each in value.items())
    if isinstance(value, list):
        return all(no_nulls(each) for each in value)
    return value is not None


@dataclass
class PythonClient:
    """Logs in, repeats a call once after a 401, and polls by the HTTP status."""

    house: Bridge
    http: httpx2.AsyncClient
    token: str = ""
    logins: int = 0

    async def call(self, method: str, path: str, *expected: int, **request: Any) -> httpx2.Response:
        """Make a call below /voice; any other status than those expected fails."""
        answer = await self._send(method, path, **request)
        if answer.status_code == 401:
            self.token = ""
            answer = await self._send(method, path, **request)
        assert answer.status_code in expected, f"{answer.status_code}: {answer.text[:600]}"
        assert not answer.is_redirect
        return answer

    async def _send(self, method: str, path: str, **request: Any) -> httpx2.Response:
        if not self.token:
            answer = await login(self.house)
            assert answer.status_code < 400
            found = answer.json()
            assert found["expires_in"] > 300
            assert "refresh_token" not in found  # it would be used, and its refresh call is broken
            self.token, self.logins = found["access_token"], self.logins + 1
        headers = request.pop("headers", {}) | {"authorization": f"Bearer {self.token}"}
        return await self.http.request(method, f"/voice{path}", headers=headers, **request)

    async def discover(self) -> dict[str, Any]:
        found: dict[str, Any] = (await self.call("GET", "/v1/.well-known/medscribealliance", 200)).json()
        return found

    async def create(self, **fields: Any) -> dict[str, Any]:
        body = {
            "session_mode": "dictation",
            "templates": ["eka_emr_template"],
            "model": "lite",
            "upload_type": "chunked",
            "communication_protocol": "http",
        } | fields
        found: dict[str, Any] = (await self.call("POST", "/v1/sessions", 200, 201, json=body)).json()
        assert isinstance(found["session_id"], str)
        assert isinstance(found["status"], str)
        assert SECONDS.fullmatch(found["created_at"])
        assert SECONDS.fullmatch(found["expires_at"])
        assert isinstance(found["upload_url"], str)
        assert isinstance(found.get("patient_details", {}), dict)
        return found

    async def upload(self, session_id: str, index: int, content: bytes) -> dict[str, Any]:
        answer = await self.call(
            "POST",
            f"/v1/sessions/{session_id}/audio/chunk_{index}.wav",
            200,
            content=content,
            headers={"content-type": "audio/wav"},
        )
        found: dict[str, Any] = answer.json()
        assert found["success"] is True
        return found

    async def end(self, session_id: str, sent: int) -> dict[str, Any]:
        answer = await self.call(
            "POST", f"/v1/sessions/{session_id}/end", 200, 202, json={"audio_files_sent": sent}
        )
        found: dict[str, Any] = answer.json()
        assert isinstance(found["audio_files_received"], int)
        assert isinstance(found["audio_files"], list)
        return found

    async def get(self, session_id: str, **params: str) -> tuple[int, dict[str, Any]]:
        answer = await self.call("GET", f"/v1/sessions/{session_id}", 200, 202, 206, 410, params=params)
        found: dict[str, Any] = answer.json()
        assert isinstance(found["session_id"], str)
        assert isinstance(found["status"], str)
        for document in found.get("templates", []):
            assert len(document) == 1
            assert isinstance(next(iter(document.values()))["status"], str)
        assert isinstance(found.get("transcript", ""), str)
        assert isinstance(found.get("additional_data", {}), dict)
        assert isinstance(found.get("processing_errors", []), list)
        return answer.status_code, found

    async def results(self, session_id: str, **params: str) -> tuple[int, dict[str, Any]]:
        """Poll until the HTTP status is no longer 202; the service's own waiting call sets the pace."""
        for _ in range(40):
            status, found = await self.get(session_id, **params)
            if status != 202:
                return status, found
            await self.house.api.get(f"/v1/sessions/{session_id}", params={"wait": 0.5})
        raise AssertionError(f"still {found['status']}")


async def python_client(house: Bridge) -> PythonClient:
    """Open one."""
    return PythonClient(house, await house.client(None))


@dataclass
class BrowserClient:
    """Asks before each cross-origin call, validates every answer, posts forms: the TypeScript client."""

    house: Bridge
    http: httpx2.AsyncClient
    token: str
    preflights: list[str] = field(default_factory=list)

    async def call(self, method: str, path: str, *expected: int, **request: Any) -> httpx2.Response:
        """Make a call as a page of another origin, cookies included."""
        headers = {
            "content-type": "application/json",
            "accept": "application/json",
            "authorization": f"Bearer {self.token}",
            "flavour": "web",
            "x-timezone": "Asia/Kolkata",
        }
        return await self.fetch(method, path, headers, *expected, **request)

    async def fetch(
        self, method: str, path: str, headers: dict[str, str], *expected: int, **request: Any
    ) -> httpx2.Response:
        """Do what a browser does: a preflight where the rules ask for one, then the call."""
        simple = {"accept", "content-type"} if "multipart" in headers.get("content-type", "") else {"accept"}
        named = sorted(set(headers) - simple)
        if named or method not in {"GET", "POST"}:
            await self._preflight(method, path, named)
        answer = await self.http.request(
            method, path, headers={**headers, "origin": ORIGIN, "cookie": "a=b"}, **request
        )
        self._check_cors(answer)
        assert answer.status_code in expected, f"{answer.status_code}: {answer.text[:600]}"
        return answer

    async def _preflight(self, method: str, path: str, names: list[str]) -> None:
        answer = await self.http.request(
            "OPTIONS",
            path,
            headers={
                "origin": ORIGIN,
                "access-control-request-method": method,
                "access-control-request-headers": ",".join(names),
            },
        )
        assert answer.status_code == 204
        self._check_cors(answer)
        assert method in answer.headers["access-control-allow-methods"].split(", ")
        assert set(names) <= set(answer.headers["access-control-allow-headers"].split(", "))
        self.preflights.append(f"{method} {path}")

    def _check_cors(self, answer: httpx2.Response) -> None:
        assert answer.headers["access-control-allow-origin"] == ORIGIN
        assert answer.headers["access-control-allow-credentials"] == "true"
        assert "origin" in answer.headers["vary"].lower()

    async def create(self, **fields: Any) -> dict[str, Any]:
        body = {
            "templates": ["eka_emr_template"],
            "upload_type": "chunked",
            "communication_protocol": "http",
        } | fields
        found: dict[str, Any] = (
            await self.call("POST", "/voice/v1/sessions?version=v2", 201, json=body)
        ).json()
        upload = found["upload_url"]["uploadData"]
        assert isinstance(upload["url"], str)
        assert all(isinstance(value, str) for value in upload["fields"].values())
        assert isinstance(found["upload_url"]["folderPath"], str)
        assert found["upload_url"]["txn_id"] == found["session_id"]
        assert no_nulls(found)
        return found

    async def post_form(
        self, upload_url: dict[str, Any], file_name: str, content: bytes, *expected: int, **changed: str
    ) -> httpx2.Response:
        """Post a file as to object storage: the fields first, no token of ours."""
        url, fields = upload_url["uploadData"]["url"], dict(upload_url["uploadData"]["fields"])
        fields = {name: value.replace("${filename}", file_name) for name, value in fields.items()}
        fields |= {"Content-Type": "audio/mp3"} | changed
        body, content_type = form(fields, file_name, content, "audio/mp3")
        path = url.removeprefix(self.house.url)
        assert path != url
        return await self.fetch(
            "POST", path, {"content-type": content_type}, *(expected or (204,)), content=body
        )

    async def end(self, session_id: str, files: int) -> dict[str, Any]:
        body = {"audio_files_sent": files, "audio_files_uploaded": files}
        found: dict[str, Any] = (
            await self.call("POST", f"/voice/v1/sessions/{session_id}/end", 202, json=body)
        ).json()
        assert {"session_id", "status", "message", "audio_files_received", "audio_files"} <= set(found)
        return found

    async def get(self, session_id: str, **params: str) -> tuple[int, dict[str, Any]]:
        answer = await self.call("GET", f"/voice/v1/sessions/{session_id}", 200, 202, 206, 410, params=params)
        found: dict[str, Any] = answer.json()
        assert isinstance(found["created_at"], str)
        assert isinstance(found["audio_files_received"], int)
        assert all(isinstance(name, str) for name in found["audio_files"])
        for name, kind in (("additional_data", dict), ("error", dict), ("processing_errors", list)):
            assert isinstance(found.get(name, kind()), kind)
        for problem in found.get("processing_errors", []):
            assert isinstance(problem["type"], str)
            assert isinstance(problem["message"], str)
        assert no_nulls(found)
        return answer.status_code, found


async def browser_client(house: Bridge) -> BrowserClient:
    """Open one; its page got a token from the hospital's backend."""
    return BrowserClient(house, await house.client(None), (await login(house)).json()["access_token"])


def form(fields: dict[str, str], file_name: str, content: bytes, media_type: str = "") -> tuple[bytes, str]:
    """A form's body, and the Content-Type that tells its boundary."""
    boundary = f"----WebKitFormBoundary{secrets.token_hex(8)}"
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    kind = f"Content-Type: {media_type}\r\n" if media_type else ""
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{file_name}"\r\n{kind}\r\n'
    )
    body = b"".join([*parts, head.encode(), content, f"\r\n--{boundary}--\r\n".encode()])
    return body, f"multipart/form-data; boundary={boundary}"
