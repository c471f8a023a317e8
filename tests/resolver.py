"""Names that resolve as a test wants, without a network."""

from __future__ import annotations

import socket
from typing import Literal, TypeAlias

import trio

AddressInfo: TypeAlias = (
    tuple[Literal[socket.AddressFamily.AF_INET], socket.SocketKind, int, str, tuple[str, int]]
    | tuple[
        Literal[socket.AddressFamily.AF_INET6],
        socket.SocketKind,
        int,
        str,
        tuple[str, int, int, int] | tuple[int, bytes],
    ]
)


class Resolver(trio.abc.HostnameResolver):
    """Knows the same addresses of every host, and none of the host ``unknown``.

    :ivar ports: the ports that were asked for.
    """

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses
        self.ports: list[int] = []

    async def getaddrinfo(
        self,
        host: bytes | None,
        port: bytes | str | int | None,
        family: int = 0,
        type: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> list[AddressInfo]:
        await trio.lowlevel.checkpoint()
        if host == b"unknown":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        assert isinstance(port, int)
        self.ports.append(port)
        return [
            (socket.AddressFamily.AF_INET, socket.SOCK_STREAM, 0, "", (address, port))
            for address in self.addresses
        ]

    async def getnameinfo(
        self, sockaddr: tuple[str, int] | tuple[str, int, int, int], flags: int
    ) -> tuple[str, str]:
        raise NotImplementedError
