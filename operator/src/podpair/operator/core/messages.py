"""Makes messages of conditions and events stable: without values that change by themselves.

A message is compared with the last one: one with an age or a count would be written anew at every reconciliation, and the same
event would never be recognized as the same. Much of it comes from others: the scheduler counts nodes, a quota says what is used,
Go's TLS gives the time.
"""

import re

_LEFT_OUT = (
    re.compile(r"(?<=[\d\]]):\d+(?=->)"),  # our side's port of a connection
    re.compile(r" \((?:after )?\d+ ?ms[^()]*(?:\(s\)[^()]*)?\)|, \d+ identical error\(s\) suppressed"),  # librdkafka
    re.compile(r", used: .*?(?=, limited: )"),  # a ResourceQuota
    re.compile(r"(?<=[:,] )\d+ (?=Insufficient |node\(s\) |No preemption |Preemption |Too many )"),  # the scheduler
    re.compile(r"(?<=current time) \d{4}-\d\d-\d\dT[-+.:\dZ]+"),  # Go: a certificate is not valid now
    re.compile(r"(?<=[Bb]ack-off) \d[\d.hmsµn]*s\b"),  # kubelets
    re.compile(r" (?:after|in) \d+(?:\.\d+)?(?:ns|µs|ms|s)\b"),  # how long something took, as Go writes it
)
_NODES = re.compile(r"\b0/\d+ nodes are available")


def stable_message(text: str) -> str:
    """Remove numbers that change by themselves from a text."""
    for pattern in _LEFT_OUT:
        text = pattern.sub("", text)
    return _NODES.sub("no nodes are available", text)
