"""What the tests share: certificates, transports, hypothesis profiles, ``--autobahn``."""

from __future__ import annotations

import os
import ssl

import bombs
import hypothesis
import pytest
import sweeping
import transports
import trio
import trustme
from raw_peer import Streams

hypothesis.settings.register_profile("dev", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, print_blob=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "dev")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--autobahn",
        action="store_true",
        help="run Autobahn|Testsuite too (some minutes; needs CPython 2.7)",
    )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how much the sweeps and the model have run, and what memory the bombs took."""
    if sweeping.counts:
        results = sweeping.counts.values()
        terminalreporter.write_line(
            f"sweeps: {len(results)} scenarios, {sum(r.runs for r in results)} runs, "
            f"{sum(r.effective for r in results)} of them cancelled or failed, "
            f"{sum(r.steps for r in results)} steps"
        )
    if sweeping.programs:
        terminalreporter.write_line(
            f"model: {len(sweeping.programs)} programs, "
            f"{sum(calls for calls, _ in sweeping.programs)} calls, "
            f"{sum(cancelled for _, cancelled in sweeping.programs)} of them cancelled"
        )
    for line in bombs.report():
        terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def certificate_authority() -> trustme.CA:
    """A certificate authority that exists for this test run only."""
    return trustme.CA()


@pytest.fixture(scope="session")
def server_ssl_context(certificate_authority: trustme.CA) -> ssl.SSLContext:
    """For a server that is ``localhost``, ``127.0.0.1`` and ``::1``."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate = certificate_authority.issue_cert("localhost", "127.0.0.1", "::1")
    certificate.configure_cert(context)
    return context


@pytest.fixture(scope="session")
def client_ssl_context(certificate_authority: trustme.CA) -> ssl.SSLContext:
    """For a client that trusts :func:`certificate_authority` and nobody else."""
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH)
    context.load_verify_locations(cadata=certificate_authority.cert_pem.bytes().decode("ascii"))
    return context


@pytest.fixture(params=transports.KINDS)
async def streams(
    request: pytest.FixtureRequest,
    nursery: trio.Nursery,
    client_ssl_context: ssl.SSLContext,
    server_ssl_context: ssl.SSLContext,
) -> Streams:
    """The transports of a client and of a server, of every kind."""
    return await transports.connect(request.param, nursery, client_ssl_context, server_ssl_context)
