"""What permessage-deflate is agreed to, with strings alone; and the options."""

from __future__ import annotations

import dataclasses

import pytest
from compression_options import agreed, any_options
from hypothesis import given
from hypothesis import strategies as st

from trio_ws._deflate import (
    DeflateParameters,
    NegotiationError,
    check_answer,
    choose_offer,
    client_codec,
    make_offer,
)
from trio_ws._headers import HeaderSyntaxError, parse_extension_list
from trio_ws._options import PermessageDeflate

DEFAULTS = PermessageDeflate()
LARGEST = PermessageDeflate(server_max_window_bits=15, client_max_window_bits=15)
NO_TAKEOVER = PermessageDeflate(
    server_no_context_takeover=True, client_no_context_takeover=True, min_size=0
)


# Options


def test_the_defaults_are_those_of_the_documentation() -> None:
    assert PermessageDeflate() == PermessageDeflate(
        server_max_window_bits=None,
        client_max_window_bits=None,
        server_no_context_takeover=False,
        client_no_context_takeover=False,
        level=6,
        mem_level=5,
        min_size=64,
    )


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("server_max_window_bits", 9, 15),
        ("client_max_window_bits", 9, 15),
        ("level", 0, 9),
        ("mem_level", 1, 9),
        ("min_size", 0, 2**40),
    ],
)
def test_options_check_their_range(name: str, least: int, most: int) -> None:
    def options(number: int) -> PermessageDeflate:
        return PermessageDeflate(**{name: number})  # type: ignore[arg-type]  # from a table

    assert getattr(options(least), name) == least
    assert getattr(options(most), name) == most
    with pytest.raises(ValueError, match=f"{name}={least - 1}: give"):
        options(least - 1)
    if name != "min_size":
        with pytest.raises(ValueError, match=f"{name}={most + 1}: give {least} to {most}"):
            options(most + 1)


def test_options_and_what_is_agreed_do_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        DEFAULTS.level = 1  # type: ignore[misc]  # the mistake under test
    with pytest.raises(dataclasses.FrozenInstanceError):
        agreed(15, 15).server_max_window_bits = 9  # type: ignore[misc]  # the mistake under test


# Negotiation: the offer


@pytest.mark.parametrize(
    ("options", "offer"),
    [
        (DEFAULTS, "permessage-deflate; client_max_window_bits"),
        (LARGEST, "permessage-deflate; client_max_window_bits"),
        (
            PermessageDeflate(server_max_window_bits=10),
            "permessage-deflate; server_max_window_bits=10; client_max_window_bits",
        ),
        (
            PermessageDeflate(client_max_window_bits=9),
            "permessage-deflate; client_max_window_bits=9",
        ),
        (
            NO_TAKEOVER,
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover; "
            "client_max_window_bits",
        ),
    ],
    ids=["defaults", "largest windows", "server's window", "client's window", "no takeover"],
)
def test_what_a_client_offers(options: PermessageDeflate, offer: str) -> None:
    assert make_offer(options) == offer


# Negotiation: the server's choice

ACCEPTED = {
    "RFC 7692 7.1.3, the simplest": (
        LARGEST,
        ["permessage-deflate"],
        "permessage-deflate",
        agreed(15, 15),
    ),
    "RFC 7692 7.1.3, a window of 1,024 bytes or less": (
        LARGEST,
        ["permessage-deflate; client_max_window_bits; server_max_window_bits=10"],
        "permessage-deflate; server_max_window_bits=10",
        agreed(10, 15),
    ),
    "RFC 7692 7.1.3, with a fallback, the first is accepted": (
        LARGEST,
        [
            "permessage-deflate; client_max_window_bits; server_max_window_bits=10, "
            "permessage-deflate; client_max_window_bits"
        ],
        "permessage-deflate; server_max_window_bits=10",
        agreed(10, 15),
    ),
    "RFC 7692 7.1.3, with a fallback, the second is accepted": (
        LARGEST,
        [
            "permessage-deflate; client_max_window_bits; server_max_window_bits=8, "
            "permessage-deflate; client_max_window_bits"
        ],
        "permessage-deflate",
        agreed(15, 15),
    ),
    "RFC 7692 7.1.1.1, no takeover in the server is asked for": (
        LARGEST,
        ["permessage-deflate; server_no_context_takeover"],
        "permessage-deflate; server_no_context_takeover",
        agreed(15, 15, (True, False)),
    ),
    "RFC 7692 7.1.1.1, no takeover in the server by itself": (
        dataclasses.replace(LARGEST, server_no_context_takeover=True),
        ["permessage-deflate"],
        "permessage-deflate; server_no_context_takeover",
        agreed(15, 15, (True, False)),
    ),
    "RFC 7692 7.1.1.2, no takeover in the client is announced": (
        LARGEST,
        ["permessage-deflate; client_no_context_takeover"],
        "permessage-deflate; client_no_context_takeover",
        agreed(15, 15, (False, True)),
    ),
    "RFC 7692 7.1.1.2, no takeover in the client is demanded": (
        dataclasses.replace(LARGEST, client_no_context_takeover=True),
        ["permessage-deflate"],
        "permessage-deflate; client_no_context_takeover",
        agreed(15, 15, (False, True)),
    ),
    "RFC 7692 7.1.2.1, the largest window is confirmed": (
        LARGEST,
        ["permessage-deflate; server_max_window_bits=15"],
        "permessage-deflate; server_max_window_bits=15",
        agreed(15, 15),
    ),
    "RFC 7692 7.1.2.1, a smaller window than the client asks for": (
        PermessageDeflate(server_max_window_bits=9, client_max_window_bits=15),
        ["permessage-deflate; server_max_window_bits=10"],
        "permessage-deflate; server_max_window_bits=9",
        agreed(9, 15),
    ),
    "RFC 7692 7.1.2.1, a window that the client did not ask for": (
        PermessageDeflate(server_max_window_bits=11),
        ["permessage-deflate"],
        "permessage-deflate; server_max_window_bits=11",
        agreed(11, 15),
    ),
    "RFC 7692 7.1.2.2, the client's window without a value": (
        PermessageDeflate(server_max_window_bits=15, client_max_window_bits=10),
        ["permessage-deflate; client_max_window_bits"],
        "permessage-deflate; client_max_window_bits=10",
        agreed(15, 10),
    ),
    "RFC 7692 7.1.2.2, the client's window with a smaller value": (
        PermessageDeflate(server_max_window_bits=15, client_max_window_bits=10),
        ["permessage-deflate; client_max_window_bits=9"],
        "permessage-deflate; client_max_window_bits=9",
        agreed(15, 9),
    ),
    "RFC 7692 7.1.2.2, the client's window with a larger value": (
        PermessageDeflate(server_max_window_bits=15, client_max_window_bits=10),
        ["permessage-deflate; client_max_window_bits=15"],
        "permessage-deflate; client_max_window_bits=10",
        agreed(15, 10),
    ),
    "a client's window of 8 bits, which zlib can inflate": (
        LARGEST,
        ["permessage-deflate; client_max_window_bits=8"],
        "permessage-deflate; client_max_window_bits=8",
        agreed(15, 8),
    ),
    "the defaults with a browser": (
        DEFAULTS,
        ["permessage-deflate; client_max_window_bits"],
        "permessage-deflate; server_max_window_bits=12; client_max_window_bits=12",
        agreed(12, 12),
    ),
    "the defaults with a client that can not limit its window": (
        DEFAULTS,
        ["permessage-deflate"],
        "permessage-deflate; server_max_window_bits=12",
        agreed(12, 15),
    ),
    "everything": (
        NO_TAKEOVER,
        [
            "permessage-deflate; client_max_window_bits=11; server_max_window_bits=10; "
            "client_no_context_takeover; server_no_context_takeover"
        ],
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover; "
        "server_max_window_bits=10; client_max_window_bits=11",
        agreed(10, 11, (True, True)),
    ),
    "a quoted value": (
        LARGEST,
        ['permessage-deflate; server_max_window_bits="10"; client_max_window_bits="\\9"'],
        "permessage-deflate; server_max_window_bits=10; client_max_window_bits=9",
        agreed(10, 9),
    ),
    "a header in several lines, after other extensions": (
        LARGEST,
        ["x-webkit-deflate-frame, bbf-usp", "", " , permessage-deflate;server_max_window_bits=9"],
        "permessage-deflate; server_max_window_bits=9",
        agreed(9, 15),
    ),
    "the first of several that are legal": (
        LARGEST,
        ["permessage-deflate; x", "permessage-deflate; server_max_window_bits=13"],
        "permessage-deflate; server_max_window_bits=13",
        agreed(13, 15),
    ),
    "the fallback of a client that can limit its window": (
        PermessageDeflate(client_max_window_bits=10),
        ["permessage-deflate", "permessage-deflate; client_max_window_bits"],
        "permessage-deflate; server_max_window_bits=12; client_max_window_bits=10",
        agreed(12, 10),
    ),
}


@pytest.mark.parametrize(
    ("options", "offers", "answer", "expected"), ACCEPTED.values(), ids=ACCEPTED.keys()
)
def test_a_server_accepts(
    options: PermessageDeflate, offers: list[str], answer: str, expected: DeflateParameters
) -> None:
    assert choose_offer(offers, options) == (expected, answer)


DECLINED = {
    "no header": [],
    "nothing in the header": ["", " , "],
    "another extension": ["x-webkit-deflate-frame"],
    "another name": ["permessage-deflat, permessage-deflate2, Permessage-Deflate"],
    "an unknown parameter": ["permessage-deflate; x_max_window_bits"],
    "an unknown parameter behind known ones": ["permessage-deflate; client_max_window_bits; x=1"],
    "server_no_context_takeover twice": [
        "permessage-deflate; server_no_context_takeover; server_no_context_takeover"
    ],
    "client_no_context_takeover twice": [
        "permessage-deflate; client_no_context_takeover; client_no_context_takeover"
    ],
    "server_max_window_bits twice": [
        "permessage-deflate; server_max_window_bits=10; server_max_window_bits=10"
    ],
    "client_max_window_bits twice": [
        "permessage-deflate; client_max_window_bits; client_max_window_bits=10"
    ],
    "server_no_context_takeover with a value": ["permessage-deflate; server_no_context_takeover=1"],
    "client_no_context_takeover with a value": [
        'permessage-deflate; client_no_context_takeover="true"'
    ],
    "server_max_window_bits without a value": ["permessage-deflate; server_max_window_bits"],
    "a window too small": ["permessage-deflate; server_max_window_bits=7"],
    "a window too large": ["permessage-deflate; client_max_window_bits=16"],
    "a leading zero": ["permessage-deflate; server_max_window_bits=09"],
    "a plus sign": ["permessage-deflate; server_max_window_bits=+9"],
    "no number": ["permessage-deflate; client_max_window_bits=x"],
    "a window that zlib can not compress with": ["permessage-deflate; server_max_window_bits=8"],
}


@pytest.mark.parametrize("offers", DECLINED.values(), ids=DECLINED.keys())
def test_a_server_declines(offers: list[str]) -> None:
    assert choose_offer(offers, DEFAULTS) is None


def test_a_server_that_demands_a_client_window_declines_a_client_that_can_not_limit_its() -> None:
    for bits in range(9, 15):
        options = PermessageDeflate(client_max_window_bits=bits)
        assert choose_offer(["permessage-deflate"], options) is None


def test_an_offer_that_is_no_list_of_extensions() -> None:
    with pytest.raises(HeaderSyntaxError):
        choose_offer(["permessage-deflate; server_max_window_bits="], DEFAULTS)


# Negotiation: the client's check of the answer

AGREED = {
    "declined": (DEFAULTS, [], None),
    "declined with an empty header": (DEFAULTS, [""], None),
    "RFC 7692 7.1.3, the simplest": (DEFAULTS, ["permessage-deflate"], agreed(15, 15)),
    "RFC 7692 7.1.3, a window of 1,024 bytes": (
        PermessageDeflate(server_max_window_bits=10),
        ["permessage-deflate; server_max_window_bits=10"],
        agreed(10, 15),
    ),
    "RFC 7692 7.1.1.1, no takeover in the server": (
        PermessageDeflate(server_no_context_takeover=True),
        ["permessage-deflate; server_no_context_takeover"],
        agreed(15, 15, (True, False)),
    ),
    "RFC 7692 7.1.1.1, no takeover in the server, not asked for": (
        DEFAULTS,
        ["permessage-deflate; server_no_context_takeover"],
        agreed(15, 15, (True, False)),
    ),
    "RFC 7692 7.1.1.2, no takeover in the client, demanded": (
        DEFAULTS,
        ["permessage-deflate; client_no_context_takeover"],
        agreed(15, 15, (False, True)),
    ),
    "RFC 7692 7.1.1.2, no takeover in the client, not confirmed": (
        PermessageDeflate(client_no_context_takeover=True),
        ["permessage-deflate"],
        agreed(15, 15, (False, True)),
    ),
    "RFC 7692 7.1.2.1, a window smaller than asked for": (
        PermessageDeflate(server_max_window_bits=12),
        ["permessage-deflate; server_max_window_bits=8"],
        agreed(8, 15),
    ),
    "RFC 7692 7.1.2.1, a window that was not asked for": (
        DEFAULTS,
        ["permessage-deflate; server_max_window_bits=11"],
        agreed(11, 15),
    ),
    "RFC 7692 7.1.2.2, a window for the client": (
        DEFAULTS,
        ["permessage-deflate; client_max_window_bits=14"],
        agreed(15, 14),
    ),
    "RFC 7692 7.1.2.2, the client's window is not confirmed": (
        PermessageDeflate(client_max_window_bits=10),
        ["permessage-deflate"],
        agreed(15, 10),
    ),
    "RFC 7692 7.1.2.2, a window for the client smaller than it announced": (
        PermessageDeflate(client_max_window_bits=10),
        ["permessage-deflate; client_max_window_bits=9"],
        agreed(15, 9),
    ),
    "a window that zlib can not compress with": (
        DEFAULTS,
        ["permessage-deflate; client_max_window_bits=8"],
        agreed(15, 8),
    ),
    "a quoted value in a second line": (
        DEFAULTS,
        ["", 'permessage-deflate; server_max_window_bits="9"'],
        agreed(9, 15),
    ),
}


@pytest.mark.parametrize(("options", "answer", "expected"), AGREED.values(), ids=AGREED.keys())
def test_a_client_agrees(
    options: PermessageDeflate, answer: list[str], expected: DeflateParameters | None
) -> None:
    assert check_answer(answer, options) == expected


NOT_OFFERED = "names extensions that we did not offer, or one twice"
NOT_AGREED = {
    "a broken header": (DEFAULTS, ["permessage-deflate;"], "breaks its grammar: expected"),
    "another extension": (DEFAULTS, ["x-webkit-deflate-frame"], NOT_OFFERED),
    "one more extension": (DEFAULTS, ["permessage-deflate, x"], NOT_OFFERED),
    "two answers": (DEFAULTS, ["permessage-deflate", "permessage-deflate"], NOT_OFFERED),
    "an unknown parameter": (
        DEFAULTS,
        ["permessage-deflate; x=1"],
        "has a parameter that permessage-deflate does not have",
    ),
    "a parameter twice": (
        DEFAULTS,
        ["permessage-deflate; server_max_window_bits=9; server_max_window_bits=9"],
        "has server_max_window_bits twice",
    ),
    "a flag with a value": (
        DEFAULTS,
        ["permessage-deflate; server_no_context_takeover=1"],
        "has server_no_context_takeover with a value that it can not have",
    ),
    "a window without a value": (
        DEFAULTS,
        ["permessage-deflate; client_max_window_bits"],
        "has client_max_window_bits with a value that it can not have",
    ),
    "a window out of range": (
        DEFAULTS,
        ["permessage-deflate; server_max_window_bits=16"],
        "has server_max_window_bits with a value that it can not have",
    ),
    "the server keeps its takeover": (
        PermessageDeflate(server_no_context_takeover=True),
        ["permessage-deflate; client_no_context_takeover"],
        "lacks server_no_context_takeover, which we asked for",
    ),
    "the server does not say that it limits its window": (
        PermessageDeflate(server_max_window_bits=10),
        ["permessage-deflate"],
        "does not limit server_max_window_bits as we asked",
    ),
    "the server's window is beyond the offer": (
        PermessageDeflate(server_max_window_bits=10),
        ["permessage-deflate; server_max_window_bits=11"],
        "does not limit server_max_window_bits as we asked",
    ),
    "the client's window is beyond the offer": (
        PermessageDeflate(client_max_window_bits=10),
        ["permessage-deflate; client_max_window_bits=11"],
        "has a client_max_window_bits above the one that we offered",
    ),
}


@pytest.mark.parametrize(("options", "answer", "why"), NOT_AGREED.values(), ids=NOT_AGREED.keys())
def test_a_client_does_not_agree(options: PermessageDeflate, answer: list[str], why: str) -> None:
    with pytest.raises(NegotiationError) as caught:
        check_answer(answer, options)
    assert str(caught.value).startswith(f"its Sec-WebSocket-Extensions header {why}")


# Negotiation: whatever is offered

window_texts = st.sampled_from(["", *[f"={bits}" for bits in range(7, 17)]])
offer_texts = st.lists(
    st.one_of(
        window_texts.map("server_max_window_bits".__add__),
        window_texts.map("client_max_window_bits".__add__),
        st.sampled_from(["server_no_context_takeover", "client_no_context_takeover", "x"]),
    ),
    max_size=4,
).map(lambda texts: "; ".join(["permessage-deflate", *texts]))


@given(client=any_options, server=any_options)
def test_both_sides_agree_to_the_same_or_to_nothing(
    client: PermessageDeflate, server: PermessageDeflate
) -> None:
    chosen = choose_offer([make_offer(client)], server)
    assert chosen is not None, "this client can do whatever this server demands"
    assert check_answer([chosen[1]], client) == chosen[0]


@given(offers=st.lists(offer_texts, max_size=3), options=any_options)
def test_an_answer_is_never_beyond_the_offer(offers: list[str], options: PermessageDeflate) -> None:
    chosen = choose_offer(offers, options)
    if chosen is None:
        return
    parameters, answer = chosen
    ((_, answered),) = parse_extension_list([answer])
    given_back = dict(answered)
    assert len(given_back) == len(answered)

    def is_answered(offer: str) -> bool:
        ((_, pairs),) = parse_extension_list([offer])
        offered = dict(pairs)
        if "x" in offered or len(offered) < len(pairs):
            return False
        server_bits = given_back.get("server_max_window_bits")
        if "server_max_window_bits" in offered and int(server_bits or 16) > int(
            offered["server_max_window_bits"] or 0
        ):
            return False
        if "server_no_context_takeover" in offered and (
            "server_no_context_takeover" not in given_back
        ):
            return False
        client_bits = given_back.get("client_max_window_bits")
        return client_bits is None or (
            "client_max_window_bits" in offered
            and int(client_bits) <= int(offered["client_max_window_bits"] or 15)
        )

    assert any(map(is_answered, offers))
    assert 9 <= parameters.server_max_window_bits <= (options.server_max_window_bits or 12)
    assert parameters.client_max_window_bits <= (options.client_max_window_bits or 15)


@given(offers=st.lists(offer_texts, min_size=1, max_size=4), options=any_options, data=st.data())
def test_the_first_offer_that_can_be_accepted_counts_however_the_header_is_cut_up(
    offers: list[str], options: PermessageDeflate, data: st.DataObject
) -> None:
    alone = [chosen for offer in offers if (chosen := choose_offer([offer], options)) is not None]
    together = [", ".join(offers)]
    cuts = data.draw(st.lists(st.integers(0, len(offers)), max_size=3).map(sorted))
    in_lines = [
        ", ".join(offers[i:j]) for i, j in zip([0, *cuts], [*cuts, len(offers)], strict=True)
    ]
    expected = alone[0] if alone else None
    assert choose_offer(together, options) == choose_offer(in_lines, options) == expected


@given(answer=offer_texts, options=any_options)
def test_no_answer_makes_a_client_agree_to_more_than_it_offered(
    answer: str, options: PermessageDeflate
) -> None:
    ((_, pairs),) = parse_extension_list([answer])
    answered = dict(pairs)
    legal = len(answered) == len(pairs) and "x" not in answered
    legal &= options.server_no_context_takeover <= ("server_no_context_takeover" in answered)
    for name in ("server_max_window_bits", "client_max_window_bits"):
        limit = getattr(options, name) or 15
        if name in answered:
            legal &= 8 <= int(answered[name] or 0) <= limit
        elif name == "server_max_window_bits":
            legal &= limit == 15
    if not legal:
        with pytest.raises(NegotiationError):
            check_answer([answer], options)
        return
    parameters = check_answer([answer], options)
    assert parameters is not None
    own_bits = options.client_max_window_bits
    assert parameters == agreed(
        int(answered.get("server_max_window_bits") or 15),
        int(answered.get("client_max_window_bits") or own_bits or 15),
        (
            "server_no_context_takeover" in answered,
            "client_no_context_takeover" in answered or options.client_no_context_takeover,
        ),
    )
    sender, receiver = client_codec(parameters, options)
    assert receiver is not None
    assert receiver.window_bits == parameters.server_max_window_bits
    assert (sender is None) == (parameters.client_max_window_bits == 8)
    if sender is not None:
        assert sender.window_bits == min(parameters.client_max_window_bits, own_bits or 12)
