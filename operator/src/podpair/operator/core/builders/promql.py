"""PromQL over a resource's pods: what alerts, the dashboard and KEDA's triggers have in common.

Pods are identified by their names and namespace: labels that every way to scrape pods gives, whatever makes the targets.
"""

from podpair.operator.core.api.igw import InferenceGateway

_LONGEST_POD_NAME, _RANDOM, _LONGEST_HASH = 63, 5, 10
_UNITS = (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1))


def pod_matchers(gateway: InferenceGateway) -> str:
    """Return the label matchers of the resource's pods, without braces."""
    return f'namespace="{gateway.metadata.namespace}",pod=~"{_pod_names(gateway.metadata.name)}"'


def duration(seconds: float) -> str:
    """Return a length of time as PromQL has it: 5400 is `1h30m`, 2.5 is `2s500ms`. It is a millisecond at least."""
    left = max(1, round(seconds * 1000))
    written = ""
    for unit, length in _UNITS:
        number, left = divmod(left, length)
        written += f"{number}{unit}" if number else ""
    return written


def number(value: float) -> str:
    """Return a number without the noise of binary fractions: 14.4 * 0.001 is `0.0144`."""
    return f"{value:.10g}"


def increased(metric: str, pods: str, *, only: str = "", by: str = "pod", window: str = "10m") -> str:
    """Return an expression with a sample for each value of the labels `by` under which a counter of `pods` has grown, of the
    series that match `only`, too.

    `increase` alone doesn't see a series that begins above 0, as those of labelled counters do: what was absent before the window
    counts, too, unless that is so because nothing was scraped then.
    """
    series = f"{metric}{{{pods}{',' if only else ''}{only}}}"
    scraped = f"up{{{pods}}} offset {window}"
    young = f"process_start_time_seconds{{{pods}}} > time() - {_seconds(window)}"
    begun = f"({series} unless {series} offset {window}) and on (pod) ({scraped} or {young})"
    return f"sum by ({by}) (increase({series}[{window}])) > 0 or sum by ({by}) ({begun}) > 0"


def _seconds(window: str) -> int:
    return int(window.removesuffix("m")) * 60


def _pod_names(name: str) -> str:
    """Return a regular expression for the names of a Deployment's pods: NAME-HASH-RANDOM.

    All is 63 characters at most: of what is too long the end is cut off before the five random ones are put behind it, its hyphen
    first and then some of the hash, which has up to 10. Source: k8s.io/apiserver/pkg/storage/names.
    """
    room = _LONGEST_POD_NAME - _RANDOM - len(name)  # for the hyphen, the hash and its hyphen
    whole = f"[a-z0-9]+-[a-z0-9]{{{_RANDOM}}}"
    if room >= _LONGEST_HASH + 2:
        return f"{name}-{whole}"
    return f"{name}-({whole}|[a-z0-9]{{{room - 1 + _RANDOM}}})"
