"""Fixtures that let a test meet each peer, in each role, over each transport; and the table."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator

import pytest
import trio
import trustme

from .meeting import TLS, Meeting, Role
from .puppeteer import PeerNotHere, PeerProcess, Puppet
from .table import Table

PEERS = ["websockets_asyncio", "websockets_trio", "trio_websocket", "aiohttp", "picows", "ws"]
GUARD = 30.0
"""Seconds after which a test has failed; all of them together take about that long."""

_table = Table()
_versions: dict[str, str] = {}


@pytest.fixture(params=PEERS)
def peer_name(request: pytest.FixtureRequest) -> str:
    """Each peer in turn; a test that a peer's API has no way to do names the others instead."""
    name: str = request.param
    return name


@pytest.fixture(params=["client", "server"])
def role(request: pytest.FixtureRequest) -> Role:
    """The part that trio_ws plays."""
    role: Role = request.param
    return role


@pytest.fixture(params=["tcp", "tls"])
def transport(request: pytest.FixtureRequest) -> str:
    """What is below."""
    name: str = request.param
    return name


@pytest.fixture(scope="session")
def start_peer() -> Iterator[Callable[[str], PeerProcess]]:
    """Start a peer when it is first asked for; it serves the rest of the run."""
    started: dict[str, PeerProcess] = {}

    def start(name: str) -> PeerProcess:
        if name not in started:
            started[name] = PeerProcess(name)
            _versions[name] = started[name].version
        return started[name]

    yield start
    for process in started.values():
        process.stop()


@pytest.fixture
def peer_process(start_peer: Callable[[str], PeerProcess], peer_name: str) -> PeerProcess:
    """The peer's process. Where it can not be started, the test is skipped with the reason."""
    try:
        return start_peer(peer_name)
    except PeerNotHere as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="session")
def tls(
    certificate_authority: trustme.CA,
    server_ssl_context: ssl.SSLContext,
    client_ssl_context: ssl.SSLContext,
    tmp_path_factory: pytest.TempPathFactory,
) -> TLS:
    """Contexts for our side, files for the peer's."""
    directory = tmp_path_factory.mktemp("tls")
    files = TLS(
        server_ssl_context, client_ssl_context, directory / "server.pem", directory / "ca.pem"
    )
    certificate = certificate_authority.issue_cert("127.0.0.1")
    certificate.private_key_and_cert_chain_pem.write_to_path(str(files.certificate))
    certificate_authority.cert_pem.write_to_path(str(files.authority))
    return files


@pytest.fixture
async def meet(
    request: pytest.FixtureRequest,
    record_property: Callable[[str, object], None],
    nursery: trio.Nursery,
    peer_process: PeerProcess,
    peer_name: str,
    role: Role,
    transport: str,
    tls: TLS,
) -> Meeting:
    """Let trio_ws and the peer meet: ``ws, peer = await meet()``."""
    record_property("interop", f"{request.node.originalname} {peer_name}")
    nursery.start_soon(fail_if_too_slow)
    puppet = await Puppet.start(nursery, peer_process.port)
    return Meeting(nursery, puppet, role, tls if transport == "tls" else None)


async def fail_if_too_slow() -> None:
    await trio.sleep(GUARD)
    raise trio.TooSlowError


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note how a test with a peer ended."""
    properties = dict(report.user_properties)
    if "interop" in properties and (report.when == "call" or report.failed):
        function, peer = str(properties["interop"]).split()
        case = function.removeprefix("test_").replace("_", " ")
        _table.add(case, peer, report.outcome)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table, if there is anything in it."""
    if not _table.cells:
        return
    terminalreporter.section("interoperability")
    terminalreporter.write_line(
        "Yes: with trio_ws as client and as server, over TCP and over TLS, where it makes sense."
    )
    for line in _table.lines({name: _versions[name] for name in PEERS if name in _versions}):
        terminalreporter.write_line(line)
