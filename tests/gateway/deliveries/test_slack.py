"""Messages to Slack keep the rules that Slack documents, whatever an event says."""

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.deliveries.conftest import Publish, subscribe
from gateway.deliveries.slack_server import SlackServer, faults
from harness.pair import Gateway
from harness.waiting import soon
from podpair.gateway.core.deliveries.slack import InvalidTemplate, check_template, escape, message

Start = Callable[..., Gateway]


def section(text: str, kind: str = "mrkdwn") -> dict[str, Any]:
    return {"type": "section", "text": {"type": kind, "text": text}}


TEMPLATE = [
    {"type": "header", "text": {"type": "plain_text", "text": "{{data.model}} {{data.data.0}}"}},
    section("*{{session}}* {{data.data}}"),
    section("```{{data.data}}```"),
    {"type": "divider"},
    {
        "type": "section",
        "fields": [{"type": "mrkdwn", "text": "{{data}}"}, {"type": "plain_text", "text": "{{data.no}}"}],
    },
    {"type": "context", "elements": [{"type": "mrkdwn", "text": "{{timestamp}} {{ data.data.text }}"}]},
]


def body(data: Any, **members: Any) -> bytes:
    event = {"type": "result", "id": "q", "model": "m", "data": data, **members}
    return json.dumps({"type": "podpair.result", "timestamp": "t", "session": "s", "data": event}).encode()


_TEXT = st.text(st.characters(exclude_categories=["Cs"]))
_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | _TEXT
    | st.builds(str.__mul__, st.sampled_from("&<a"), st.integers(0, 9000)),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(_TEXT, inner, max_size=5),
    max_leaves=10,
)


@given(_JSON, st.sampled_from([None, TEMPLATE]))
def test_no_event_makes_a_message_that_slack_refuses_or_reads_as_markup(data: Any, template: Any) -> None:
    assert faults(message(body(data), template)) == []


def test_the_server_of_these_tests_is_strict() -> None:
    good = message(body("x"), TEMPLATE)
    assert faults(good) == []
    for change in (
        {"text": ""}, {"text": "<!channel>"}, {"text": "a & b"}, {"text": "x" * 40_001}, {"blocks": [{"type": "divider"}] * 51},
        {"blocks": [section("x" * 3001)]}, {"blocks": [section("")]}, {"blocks": [{"type": "rich_text"}]},
        {"blocks": [{"type": "section", "fields": [{"type": "mrkdwn", "text": "x"}] * 11}]},
        {"blocks": [{"type": "header", "text": {"type": "plain_text", "text": "x" * 151}}]},
        {"blocks": [{"type": "header", "text": {"type": "mrkdwn", "text": "x"}}]}, {"response_type": "ephemeral"},
    ):  # fmt: skip
        assert faults(good | change) != [], change


def test_members_of_the_event_stand_where_the_template_says() -> None:
    said = message(
        body({"label": "cat & <dog>", "scores": [0.25, 1]}),
        [section("{{data.data.label}}: {{data.data.scores.0}}{{no}}")],
    )
    assert said["blocks"] == [section("cat &amp; &lt;dog&gt;: 0.25")]
    assert said["text"] == 'podpair.result: {"label":"cat &amp; &lt;dog&gt;","scores":[0.25,1]}'


def test_what_is_escaped_is_not_cut_within_a_character() -> None:
    for more in range(6):
        text = message(body("x" * (2990 + more) + "&&&&"), [section("{{data.data}}")])["blocks"][0]["text"]["text"]
        assert len(text) <= 3000
        assert text.removesuffix("…").replace("&amp;", "").strip("x") == ""
    assert escape("<!channel> &") == "&lt;!channel&gt; &amp;"


@pytest.mark.parametrize(
    "blocks",
    [
        [], {}, "x", [{}], [{"type": "image"}], [{"type": "section"}], [section("")], [section("x" * 3001)],
        [section("x", "html")],
        [{"type": "divider"}] * 51, [{"type": "divider", "more": 1}],
        [{"type": "header", "text": {"type": "mrkdwn", "text": "x"}}],
        [{"type": "context", "elements": []}], [{"type": "context", "elements": [{"type": "mrkdwn", "text": "x"}] * 11}],
        [{"type": "section", "fields": [{"type": "mrkdwn", "text": "x"}] * 11}], [{"type": "section", "text": "x"}],
        [{"type": ["section"]}], [section("x") | {"accessory": {}}],
    ],
)  # fmt: skip
def test_a_template_that_slack_would_refuse(blocks: Any) -> None:
    with pytest.raises(InvalidTemplate):
        check_template(blocks)


def test_the_template_of_these_tests_is_good() -> None:
    check_template(TEMPLATE)


@pytest.fixture
async def slack() -> AsyncIterator[SlackServer]:
    server = SlackServer()
    runner = await server.start()
    yield server
    await runner.cleanup()


async def test_a_channel_gets_each_message_once_and_at_its_pace(
    start: Start, http: aiohttp.ClientSession, slack: SlackServer, publish: Publish
) -> None:
    gateway = start()
    for name in ("a", "b"):
        where = f"{slack.url}/services/{name}"
        made = await subscribe(http, gateway, where, kind="slack", secret="", blocks=TEMPLATE)
        assert slack.url not in json.dumps(made)
    publish("ann/s", b'"<!channel> hello"', b'{"x":1}', b"3")
    await soon(lambda: len(slack.messages) == 6)
    assert slack.refusals == []
    texts = [said["text"] for path, said in slack.messages if path == "/services/a"]
    assert set(texts) == {"podpair.push: 3", "podpair.push: &lt;!channel&gt; hello", 'podpair.push: {"x":1}'}


async def test_a_hook_that_was_removed_is_asked_once(
    start: Start, http: aiohttp.ClientSession, slack: SlackServer, publish: Publish
) -> None:
    gateway = start()
    slack.missing.add("/services/a")
    await subscribe(http, gateway, f"{slack.url}/services/a", kind="slack", secret="")
    publish("ann/s", b"1")
    await soon(lambda: gateway.metric("deliveries_total", kind="slack", outcome="failed") == 1)
    assert slack.refusals == ["no_service"]


async def test_a_response_url_is_used_five_times_at_most(
    start: Start, http: aiohttp.ClientSession, slack: SlackServer, publish: Publish
) -> None:
    gateway = start()
    where = f"{slack.url}/response/a"
    made = await subscribe(http, gateway, where, kind="slack_response", secret="", in_channel=True)
    assert made["expires_at"] - made["created_at"] == 1_800_000
    publish("ann/s", *(b"%d" % number for number in range(7)))
    await soon(lambda: gateway.metric("deliveries_total", kind="slack_response", outcome="failed") == 2)
    assert [said["response_type"] for _, said in slack.messages] == ["in_channel"] * 5
    assert slack.refusals == []
