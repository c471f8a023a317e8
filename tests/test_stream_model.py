"""Random programs for two streams: nothing is seen that the model does not allow.

A thousand programs where the environment variable CI is set, and there always the same ones; about
fifty elsewhere, and others each time. A program that has ever failed stays, as an explicit example.
"""

from __future__ import annotations

import os
import ssl
from typing import Final

import pytest
import stream_model
import sweeping
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from stream_model import (
    Aclose,
    CloserStep,
    Flush,
    Ping,
    Pong,
    Program,
    Receive,
    ReceiveNowait,
    ReceivePart,
    ReceiverStep,
    Script,
    Send,
    SendClose,
    SenderStep,
    SendNowait,
    SendPart,
    TearDown,
    Wait,
)

from trio_ws import PermessageDeflate

KINDS: Final = ("lockstep", "bytes", "socket", "tls", "direct_tls")
WITH_TAKEOVER: Final = PermessageDeflate(min_size=0)
WITHOUT_TAKEOVER: Final = PermessageDeflate(
    min_size=0, server_no_context_takeover=True, client_no_context_takeover=True
)
MAX_EXAMPLES: Final = (1000 if os.environ.get("CI") else 50) // len(KINDS)

cancels = st.none() | st.integers(0, 8)
sizes = st.sampled_from([0, 10, 1500])
max_bytes = st.sampled_from([None, 1, 5, 1000])
bounds = st.sampled_from([1, 2000, 64 * 1024])
waits = st.builds(Wait, st.integers(1, 10))

senders: st.SearchStrategy[SenderStep] = st.one_of(
    st.builds(Send, size=sizes, binary=st.booleans(), cancel=cancels),
    st.builds(SendPart, size=sizes, fin=st.booleans(), cancel=cancels),
    st.builds(Send, size=sizes, cancel=cancels),
    st.builds(SendPart, size=sizes, fin=st.booleans(), cancel=cancels),
    st.builds(SendNowait, size=sizes),
    st.builds(Ping, cancel=cancels),
    st.builds(Pong, cancel=cancels),
    st.builds(Flush, cancel=cancels),
    waits,
)
receivers: st.SearchStrategy[ReceiverStep] = st.one_of(
    st.builds(Receive, cancel=cancels), st.builds(ReceiveNowait), waits
)
part_receivers: st.SearchStrategy[ReceiverStep] = receivers | st.builds(
    ReceivePart, max_bytes=max_bytes, cancel=cancels
)
closers: st.SearchStrategy[CloserStep] = st.one_of(
    st.builds(SendClose, cancel=cancels), st.builds(Aclose, cancel=cancels), st.builds(TearDown)
)


def steps(step: st.SearchStrategy[stream_model.T]) -> st.SearchStrategy[tuple[stream_model.T, ...]]:
    return st.lists(step, min_size=1, max_size=8).map(tuple)


def tasks(
    step: st.SearchStrategy[stream_model.T], max_size: int
) -> st.SearchStrategy[tuple[tuple[stream_model.T, ...], ...]]:
    return st.lists(steps(step), min_size=1, max_size=max_size).map(tuple)


scripts = st.builds(
    Script,
    senders=tasks(senders, 3),
    receivers=tasks(receivers, 3) | tasks(part_receivers, 1),
    closer=st.just(()) | st.just(()) | st.tuples(st.builds(Wait, st.integers(1, 60)), closers),
)
programs = st.builds(
    Program,
    client=scripts,
    server=scripts,
    max_bytes=st.sampled_from([500, 50]),
    budget=st.sampled_from([1, 10_000, 256 * 1024]),
    max_inbox_size=bounds,
    max_outbox_size=bounds,
    max_frame_size=st.sampled_from([None, 500]),
    compression=st.sampled_from([None, WITH_TAKEOVER, WITHOUT_TAKEOVER]),
    ticks_before=st.integers(0, 7),
    ending=st.tuples(
        st.sampled_from(["client", "server"]), st.sampled_from([Aclose(), SendClose()])
    ),
)


A_MESSAGE_IS_CUT_OFF: Final = Program(
    client=Script(receivers=((Receive(), ReceivePart()),)),
    server=Script(
        senders=((Send(),), (SendNowait(size=1500),)), closer=(Wait(ticks=1), TearDown())
    ),
)
"""Its beginning can be received in parts after ``receive`` has said that there is no more."""

A_CANCELLED_WRITER_IS_ASKED_TO_WRITE: Final = Program(
    client=Script(senders=((Send(),),), receivers=((ReceiveNowait(),),)),
    server=Script(
        senders=((Send(), Send(cancel=0), Wait(ticks=1), SendNowait()), (Flush(),)),
        receivers=((Receive(),),),
        closer=(Wait(ticks=2), TearDown()),
    ),
    budget=10_000,
    max_outbox_size=2000,
)
"""It began anew with what it had written already, and a message was doubled."""


@pytest.fixture(scope="session")
def contexts(
    client_ssl_context: ssl.SSLContext, server_ssl_context: ssl.SSLContext
) -> sweeping.Contexts:
    return client_ssl_context, server_ssl_context


@pytest.mark.parametrize("kind", KINDS)
@settings(
    max_examples=MAX_EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(program=programs)
@example(program=A_MESSAGE_IS_CUT_OFF)
@example(program=A_CANCELLED_WRITER_IS_ASKED_TO_WRITE)
def test_of_random_programs_nothing_is_seen_that_the_model_does_not_allow(
    program: Program, kind: str, contexts: sweeping.Contexts
) -> None:
    played = stream_model.run(program, kind, contexts)
    sweeping.programs.append((played.calls, played.cancelled))
