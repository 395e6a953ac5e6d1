"""A web server for one page that renews itself, on the loopback address alone."""

import json
import sys
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from fmx.errors import ConfigError
from fmx.reporting.offline_page import plotly_js

__all__ = ["LOOPBACK", "PLOTLY", "PageServer"]

LOOPBACK = "127.0.0.1"
OWN_NAMES = {LOOPBACK, "localhost"}  # any other name may be that of a foreign page (DNS rebinding)
PLOTLY = "/plotly.js"
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "frame-ancestors 'none'",
}


class PageServer(ThreadingHTTPServer):
    """Answers three addresses and no other: `/`, the page; `/state`, as JSON; and plotly.js, which the page draws with.

    port: 0 for any that is free. ConfigError where the port is taken. page, state: called at each request, in threads.
    """

    daemon_threads = True
    allow_reuse_address = sys.platform != "win32"  # there, it would take over a port in use

    def __init__(self, port: int, *, page: Callable[[], str], state: Callable[[], dict[str, Any]]) -> None:
        self.page, self.state = page, state
        self.plotly = plotly_js().encode()
        try:
            super().__init__((LOOPBACK, port), _Handler)
        except OSError as error:
            raise ConfigError(
                f"port {port} of {LOOPBACK} is not available ({error.strerror}); leave out --port for any that is free"
            ) from error

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a browser that went away."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: PageServer
    server_version, sys_version = "fmx", ""
    timeout = 60  # seconds that a silent connection may last

    def do_GET(self) -> None:
        """Answer a request."""
        self._answer()

    def do_HEAD(self) -> None:
        """Answer a request for the headers."""
        self._answer()

    def _answer(self) -> None:
        name, _, port = self.headers.get("Host", "").partition(":")  # through a tunnel, the port is another one
        if name.lower() not in OWN_NAMES or not (port.isdecimal() or not port):
            self._send(HTTPStatus.MISDIRECTED_REQUEST, "text/plain", b"this page has another address\n")
            return
        path = self.path.partition("?")[0]
        if path == "/":
            self._send(HTTPStatus.OK, "text/html", self.server.page().encode())
        elif path == "/state":
            self._send(HTTPStatus.OK, "application/json", json.dumps(self.server.state()).encode())
        elif path == PLOTLY:
            self._send(HTTPStatus.OK, "text/javascript", self.server.plotly, keep="max-age=86400")
        else:
            self._send(HTTPStatus.NOT_FOUND, "text/plain", b"there is no such page\n")

    def _send(self, status: HTTPStatus, kind: str, contents: bytes, *, keep: str = "no-store") -> None:
        self.send_response(status)
        length = {"Content-Type": f"{kind}; charset=utf-8", "Content-Length": str(len(contents)), "Cache-Control": keep}
        for name, value in {**length, **HEADERS}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(contents)

    def log_message(self, *_: object) -> None:
        """Print no line per request."""
