"""Resources made from the CRD's schema: its schema, `podpair validate`, the operator and the gateway say the same of each.

`make test-resources` makes 10,000 of them. An API server, which alone knows the rules, is asked in
tests/cluster/test_generated_resources.py.
"""

import os
import re
from collections import Counter

import jsonschema
import pytest

from harness.generated_resources import GOOD, SPEC, Schema, generated
from harness.resources import resource
from harness.verdicts import disagreements, verdict

NUMBERS = range(int(os.environ.get("PODPAIR_RESOURCES", "500")))
BATCH = 250


@pytest.mark.parametrize("first", range(NUMBERS.start, NUMBERS.stop, BATCH))
def test_nobody_disagrees(first: int) -> None:
    found = {}
    for number in range(first, min(first + BATCH, NUMBERS.stop)):
        if told := disagreements(generated(number)):
            found[number] = told
    assert found == {}


def test_they_are_good_and_bad_in_many_ways() -> None:
    said = [verdict(generated(number)) for number in range(200)]
    kinds = Counter(
        "good" if not one.validate else "field" if one.fields else "rule" if one.rules else "pod" for one in said
    )
    assert kinds["good"] >= 35
    assert kinds["field"] >= 40
    assert kinds["rule"] >= 20
    assert len({message for one in said for message in one.validate}) >= 100


def test_every_pattern_has_texts_that_it_takes() -> None:
    def patterns(schema: Schema) -> set[str]:
        below = [*schema.get("properties", {}).values(), schema.get("items"), schema.get("additionalProperties")]
        own = {schema["pattern"]} if "pattern" in schema else set()
        return own.union(*(patterns(one) for one in below if isinstance(one, dict)))

    assert patterns(SPEC) == set(GOOD)
    for pattern, texts in GOOD.items():
        for text in texts:
            assert not isinstance(text, str) or re.search(pattern, text), (pattern, text)


def test_a_difference_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    made = resource(kafka__client={"isolation.level": "read_uncommitted"})
    assert disagreements(made) == []
    monkeypatch.setattr("podpair.operator.core.api.kafka.OWNED", ())
    (told,) = disagreements(made)
    assert "the operator: good; the gateway: " in told
    assert "isolation.level is podpair's own to set" in told
    monkeypatch.setattr("harness.verdicts._JUDGE", jsonschema.Draft7Validator({}))
    (told,) = disagreements(resource(gateway__drain="1s1m"))
    assert told.startswith("the CRD's schema: good; the operator: ")
