"""Types that settings share."""

from collections import Counter
from collections.abc import Iterable
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field

Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(ge=0)]
PositiveSeconds = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(gt=0)]
TopicName = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,249}$")]


def is_web_url(url: str) -> bool:
    """Return whether it is an http or https address with a host."""
    return url.startswith(("http://", "https://")) and bool(urlsplit(url).hostname)


def check_once(models: Iterable[str]) -> None:
    """Raise ValueError if a list of models names one twice."""
    found = Counter(models)
    if twice := sorted(name for name, count in found.items() if count > 1):
        raise ValueError(f"models: {', '.join(twice)} twice")


class Section(BaseModel):
    """A part of the settings: what it doesn't know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
