"""Which route a request to a model may take: a workflow runs through the queue only, whoever asks for it and however."""

from typing import TYPE_CHECKING

from podpair.gateway.core.model_errors import Busy, Failed, Unavailable
from podpair.gateway.core.models import Model
from podpair.gateway.core.protocol import Code, Fault, QueueOnly
from podpair.gateway.core.request import InferenceRequest

if TYPE_CHECKING:
    from podpair.gateway.upstream.client import InferenceClient


def check_request(request: InferenceRequest, model: Model) -> None:
    """Raise QueueOnly for a client's request to a workflow. The steps of one are called with its version."""
    if model.workflow is not None and not request.version:
        raise QueueOnly(model.name)


async def check_passed_on(client: "InferenceClient", name: str) -> None:
    """Raise QueueOnly for a request to a workflow that would be passed on as it is: it could be one for a step of it."""
    try:
        model = await client.describe(name)
    except (Fault, Busy, Failed, Unavailable):
        return  # whoever answers it says what is wrong
    if model.workflow is not None:
        raise QueueOnly(name)


async def may_be_workflow(client: "InferenceClient", name: str) -> bool:
    """Return whether a model is a workflow, or may be one, as long as the container does not say."""
    try:
        model = await client.describe(name)
    except Fault as fault:
        return fault.code is not Code.NOT_FOUND
    except (Busy, Failed, Unavailable):
        return True
    return model.workflow is not None
