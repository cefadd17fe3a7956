"""The shop served over HTTP on the loopback interface: Starlette and uvicorn, one server per process.

An address holds all that its page shows, so that the browser's own history works. Who visits is told by a cookie.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import parse_qsl

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from ..errors import EnvFailure
from ..listening import listening_socket
from .goals import Goal
from .html import chosen_options, missing, render, session_at
from .reward import Reward
from .session import Session
from .shop import Shop

COOKIE = "visit"
_HEADERS = {
    # Nothing on a page may run or be fetched, whatever a product's text holds.
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'self'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
_START_SECONDS = 20.0


class ServerFailure(EnvFailure):
    """Raised when the shop's server does not start."""


@dataclass
class Visit:
    """Somebody's visit to a shop.

    Attributes:
        shop: which.
        goal: what they are to buy.
        end: the session of the last page, once something is bought.
        left: whether the last page was shown.
    """

    shop: Shop
    goal: Goal
    end: Session | None = None
    left: bool = False

    @property
    def bought(self) -> Reward | None:
        """The reward of the purchase, None before it."""
        return self.end.bought if self.end is not None else None


class ShopServer:
    """A server on a free port of the loopback interface, in a thread of its own.

    Attributes:
        url: where it listens, without a slash at the end.
        visits: by the value of the cookie.
        welcome: makes a visit for somebody without a cookie; None to send them away.
    """

    def __init__(self) -> None:
        self.visits: dict[str, Visit] = {}
        self.welcome: Callable[[], Visit] | None = None
        listener = listening_socket()
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        routes = [
            Route("/buy", self._buy, methods=["POST"]),
            Route("/{path:path}", self._page, methods=["GET"]),
        ]
        config = uvicorn.Config(
            Starlette(routes=routes), lifespan="off", ws="none", log_level="critical", access_log=False
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [listener]}, name="webshop-server", daemon=True
        )
        self._thread.start()
        until = time.monotonic() + _START_SECONDS
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > until:
                raise ServerFailure(f"the shop's server did not start on {self.url}")
            time.sleep(0.005)

    def open(self, visit: Visit) -> str:
        """Begin a visit; returns the value of its cookie."""
        token = secrets.token_urlsafe(16)
        self.visits[token] = visit
        return token

    def close(self) -> None:
        """Stop listening."""
        self._server.should_exit = True
        self._thread.join(timeout=5)

    async def _page(self, request: Request) -> Response:
        token = request.cookies.get(COOKIE, "")
        visit = self.visits.get(token)
        if visit is None:
            if self.welcome is None:
                return HTMLResponse("<h1>No visit</h1>", 403, _HEADERS)
            visit = self.welcome()
            answer: Response = RedirectResponse("/", 303, _HEADERS)
            answer.set_cookie(COOKIE, self.open(visit), httponly=True, samesite="strict")
            return answer
        if visit.end is not None:
            if request.url.path != "/done":
                return RedirectResponse("/done", 303, _HEADERS)
            visit.left = True
            return HTMLResponse(render(visit.end, visit.shop), headers=_HEADERS)
        session = session_at(str(request.url), visit.goal.instruction, visit.shop)
        if session is None:
            return HTMLResponse(missing(visit.goal.instruction), 404, _HEADERS)
        if session.page == "done":
            return RedirectResponse("/", 303, _HEADERS)
        return HTMLResponse(render(session, visit.shop), headers=_HEADERS)

    async def _buy(self, request: Request) -> Response:
        visit = self.visits.get(request.cookies.get(COOKIE, ""))
        if visit is None:
            return HTMLResponse("<h1>No visit</h1>", 403, _HEADERS)
        given = dict(parse_qsl((await request.body()).decode("utf-8", "replace"), keep_blank_values=True))
        row = given.get("row", "")
        if (
            visit.end is None
            and row.isascii()
            and row.isdecimal()
            and int(row[:10]) < len(visit.shop.catalogue)
        ):
            options = chosen_options(given, visit.shop.product(int(row))["options"])
            bought = visit.shop.reward(int(row), visit.goal, options)
            visit.end = Session(visit.goal.instruction, "done", row=int(row), options=options, bought=bought)
        return RedirectResponse("/done", 303, _HEADERS)


_servers: dict[int, ShopServer] = {}
_starting = threading.Lock()


def shop_server() -> ShopServer:
    """The server of this process; a fork starts its own."""
    with _starting:
        if os.getpid() not in _servers:
            _servers[os.getpid()] = ShopServer()
        return _servers[os.getpid()]


def invite(visit: Visit) -> str:
    """Open the shop for whoever comes to the server without a cookie; returns where."""
    server = shop_server()
    server.welcome = lambda: visit
    return f"{server.url}/"
