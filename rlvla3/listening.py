"""Where a server listens: its sockets, who can reach them, and the token that they need then."""

from __future__ import annotations

import errno
import ipaddress
import os
import secrets
import socket
from collections.abc import Sequence
from pathlib import Path

from rlvla3.errors import RecipeError

ELSEWHERE = "choose another port with --port, or --port 0 for any that is free"
TOKEN_NEEDED = "so a token is needed: give --token-file FILE, or --token new to have one made and shown"
TOKEN_VARIABLE = "RLVLA3_TOKEN"
LEAST_TOKEN = 16
"""Characters. Shorter ones can be guessed."""

WAYS_OUT = {
    errno.EADDRINUSE: f"another program listens there: {ELSEWHERE}",
    errno.EACCES: f"this user may not listen there (ports below 1024 are the system's): {ELSEWHERE}",
    errno.EADDRNOTAVAIL: "this machine has no such address: give --host 127.0.0.1 for this machine alone, or 0.0.0.0 for all of its networks",
}


def check_reach(host: str, token: str | None, danger: str) -> None:
    """Raise RecipeError where other machines could reach `host` and there is no token, and where there is no such host.

    danger: what whoever reaches it could do, such as "could drive your robot".
    """
    if token is None and not all(ipaddress.ip_address(address).is_loopback for address in _addresses(host)):
        raise RecipeError(f"--host {host} lets other machines connect: whoever reaches it {danger}, {TOKEN_NEEDED}")


def listen(host: str, port: int) -> list[socket.socket]:
    """A listening socket for each address of `host`, all with the same port. Raises RecipeError."""
    sockets: list[socket.socket] = []
    for address in _addresses(host):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            sockets.append(socket.create_server((address, sockets[0].getsockname()[1] if sockets else port), family=family))
        except OSError as error:
            if sockets and error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):  # the host has an address of IPv6, and this machine has no IPv6
                continue
            for opened in sockets:
                opened.close()
            raise RecipeError(f"cannot listen on {host}, port {port}: {WAYS_OUT.get(error.errno or 0, error.strerror)}") from error
    return sockets


def token_of(given: str | None, file: Path | None) -> str | None:
    """The token of the command line, of its file, or of the environment. `new` makes one. Raises RecipeError for one that can be guessed."""
    if file is not None:
        if given is not None:
            raise RecipeError("--token and --token-file were both given: give one of them")
        try:
            given = file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(f"--token-file {file} cannot be read ({error}): name a file with the token and nothing else") from error
    elif given == "new":
        return secrets.token_urlsafe(24)
    if given is None:
        given = os.environ.get(TOKEN_VARIABLE)
    if given is not None and (len(given) < LEAST_TOKEN or not given.isascii() or not given.isprintable() or " " in given):
        raise RecipeError(f"a token has at least {LEAST_TOKEN} printable characters of ASCII and no space: give a longer one, or --token new to have one made")
    return given


def _addresses(host: str) -> Sequence[str]:
    """The numeric addresses of a host, those of IPv4 first. Raises RecipeError."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise RecipeError(f"--host {host:.80}: there is no such host or address: give 127.0.0.1 for this machine alone") from error
    return sorted(dict.fromkeys(str(address[0]).partition("%")[0] for *_, address in found), key=lambda address: ":" in address)
