"""Makes the host of workflows, of what it uses."""

from dataclasses import dataclass

from podpair.common.gateway_config.model import Config
from podpair.gateway.kafka.producer import RecordProducer
from podpair.gateway.kafka.topic_limits import TopicLimits
from podpair.gateway.metrics import Metrics
from podpair.gateway.results.replies import ReplyWriter
from podpair.gateway.results.writer import ResultWriter
from podpair.gateway.upstream.factory import ModelAccess
from podpair.gateway.worker.dead_letters import DeadLetters
from podpair.gateway.workflows.calls import StageCalls
from podpair.gateway.workflows.host import WorkflowHost
from podpair.gateway.workflows.observer import Observer
from podpair.gateway.workflows.turns import Tools
from podpair.gateway.workflows.writer import StepWriter


@dataclass(frozen=True, slots=True)
class WorkflowParts:
    """What workflows use of the gateway."""

    results: ResultWriter
    dead_letters: DeadLetters
    replies: ReplyWriter
    model: ModelAccess
    producer: RecordProducer
    metrics: Metrics


def make_host(config: Config, name: str, limits: TopicLimits, parts: WorkflowParts) -> WorkflowHost:
    """Make the host, and have the metrics say whether it works. name: this gateway's."""
    tools = Tools(
        StepWriter(config, name, parts.results, parts.dead_letters, parts.replies),
        StageCalls(config, name, parts.model, parts.producer),
        Observer(parts.metrics),
    )
    host = WorkflowHost(config, limits, tools)
    parts.metrics.workflows_ready.set_function(lambda: host.trouble is None)
    parts.metrics.kept.set_function(lambda: host.kept)
    return host
