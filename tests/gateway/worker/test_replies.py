"""Records about workflows that come by the requests topic, and the answers that go where a request says."""

import pytest

from podpair.gateway.core.records import Cancellation, InvalidRecord, Reply, Request, Signal, request_of_record
from podpair.gateway.kafka.producer import Outgoing
from podpair.gateway.results.replies import ReplyWriter

ANSWER = Outgoing("results", b"{}", b"s", [("ce_id", b"r")], lambda: "an answer")


def headers(kind: str, session: str = "s", **more: str) -> list[tuple[str, bytes | None]]:
    named = {"ce_type": f"dev.podpair.{kind}", "ce_id": "r", "ce_subject": session} | more
    return [(name, value.encode()) for name, value in named.items()]


def test_what_is_said_to_a_workflow() -> None:
    assert request_of_record(b'{"a":1}', headers("signal", name="ok")) == Signal("r", "s", "ok", b'{"a":1}')
    assert request_of_record(b"{}", headers("result", "workflow:s/r")) == Reply("r", "workflow:s/r", False, b"{}")
    assert request_of_record(b"{}", headers("error", "workflow:s/r")) == Reply("r", "workflow:s/r", True, b"{}")
    assert request_of_record(None, headers("cancel")) == Cancellation("r", "s")


@pytest.mark.parametrize(
    ("value", "found", "message"),
    [
        (b"{", headers("signal", name="ok"), "not JSON"),
        (b"1", headers("signal"), "header 'name' is missing"),
        (b"{}", headers("result"), "an answer is no request"),
        (b"{}", headers("error"), "an answer is no request"),
    ],
)
def test_what_is_no_record_of_the_requests_topic(
    value: bytes, found: list[tuple[str, bytes | None]], message: str
) -> None:
    with pytest.raises(InvalidRecord, match=message):
        request_of_record(value, found)


def test_where_an_answer_is_wanted() -> None:
    given = headers("request", model="m", reply_to="a.requests", reply_partition="3")
    request = request_of_record(b"{}", given)
    assert isinstance(request, Request)
    assert request.reply_to == ("a.requests", 3)
    plain = request_of_record(b"{}", headers("request", model="m", reply_to="a", reply_partition="x"))
    assert isinstance(plain, Request)
    assert plain.reply_to == ("a", -1)


@pytest.mark.parametrize(
    ("allowed", "topic", "goes"),
    [
        ((), "a.requests", False),
        (("a.requests",), "a.requests", True),
        (("a.requests",), "a.requests.dlq", False),
        (("a.*",), "a.requests", True),
        (("a.*",), "b.requests", False),
    ],
)
def test_an_answer_goes_where_that_is_allowed(allowed: tuple[str, ...], topic: str, goes: bool) -> None:
    made = ReplyWriter(allowed).to((topic, 3), ANSWER)
    assert made == ([ANSWER._replace(topic=topic, partition=3, optional=True)] if goes else [])
    assert ReplyWriter(allowed).to(None, ANSWER) == []
