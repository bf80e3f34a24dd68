"""Settings of OpenAI's API on the public port."""

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from podpair.common.gateway_config.fields import Section, check_once, is_web_url
from podpair.common.lists import Listed

Task = Literal["chat", "completions", "embeddings"]
"""What a model may be asked for."""


class OpenAIModel(Section):
    """A model that is called by the Open Inference Protocol V2, with one input of text, and offered over OpenAI's API."""

    model: Annotated[str, Field(min_length=1)]
    """Its name, here and there."""
    tasks: Annotated[tuple[Task, ...], Listed, Field(min_length=1)] = ("chat",)
    """What it may be asked for. For `chat` its input is the list of messages as JSON text, for `completions` the prompt, for
    `embeddings` each text, a row of its own."""


class OpenAI(Section):
    """OpenAI's API on the public port (docs/openai.md): models, chat completions, completions, embeddings, responses."""

    enabled: bool = False
    """Serve it. Off: only /v1/chat/completions is passed on, with errors in podpair's own form."""
    url: str | None = None
    """Where a server of OpenAI's API answers, without /v1: http://host:port. Unset: `inference.url`, if that is http(s)."""
    models: Annotated[tuple[OpenAIModel, ...], Listed] = ()
    """Models that are called by V2 instead, each at most once."""

    @field_validator("url")
    @classmethod
    def _url(cls, value: str | None) -> str | None:
        if value is None:
            return None
        if not is_web_url(value) or "?" in value:
            raise ValueError(f"{value!r} is not an http(s) URL")
        return value.rstrip("/").removesuffix("/v1")

    @model_validator(mode="after")
    def _once(self) -> Self:
        check_once([one.model for one in self.models])
        return self

    def offers(self, model: str, task: Task) -> bool | None:
        """Return whether a model may be asked for this over V2; None: it is not declared here."""
        for one in self.models:
            if one.model == model:
                return task in one.tasks
        return None
