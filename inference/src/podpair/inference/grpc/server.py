"""The gRPC server: its services, their methods as bytes or messages, health and reflection. Importing this imports grpc."""

from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from podpair.inference.core.held import HeldBytes
from podpair.inference.grpc import inference, predicting
from podpair.inference.grpc.call import Front
from podpair.inference.grpc.calls import Calls
from podpair.inference.grpc.proto import open_inference_pb2, podpair_pb2
from podpair.inference.metrics import Metrics
from podpair.inference.runtime.catalog import Catalog
from podpair.inference.tracing import Tracing

_V2 = open_inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
_PODPAIR = podpair_pb2.DESCRIPTOR.services_by_name["Inference"]
_SERVING = health_pb2.HealthCheckResponse.SERVING
_COMPRESSION = {
    "none": grpc.Compression.NoCompression,
    "deflate": grpc.Compression.Deflate,
    "gzip": grpc.Compression.Gzip,
}
SERVICES = (_V2.full_name, _PODPAIR.full_name)


def options(max_body_bytes: int, compression: str) -> dict[str, int]:
    """The core's channel arguments. compression: of answers, for clients that can unpack them."""
    return {
        # Another process's port is taken, not shared.
        "grpc.so_reuseport": 0,
        # Beside the tensors there is their description.
        "grpc.max_receive_message_length": max_body_bytes + 65_536,
        "grpc.max_send_message_length": -1,
        "grpc.default_compression_algorithm": int(_COMPRESSION[compression]),
    }


class Server:
    """The services, and the health that they tell."""

    def __init__(self, front: Front, catalog: Catalog, metrics: Metrics, tracing: Tracing, held: HeldBytes) -> None:
        calls = Calls(metrics, held)
        v2 = inference.InferenceService(catalog, calls, tracing)
        podpair = predicting.PredictService(catalog, calls, tracing)
        self._front = front
        parsed = [method for method in _V2.methods if method.name not in ("ModelInfer", "ModelStreamInfer")]
        streamed = grpc.stream_stream_rpc_method_handler(calls.stream(v2.ModelStreamInfer, inference.explain))
        front.add_registered_method_handlers(
            _V2.full_name,
            {method.name: _unary(calls, v2, method) for method in parsed} | {"ModelStreamInfer": streamed},
        )
        front.add_direct(_V2.full_name, "ModelInfer", calls.direct(v2.infer))
        streamed = grpc.stream_stream_rpc_method_handler(
            calls.stream(podpair.PredictStream, predicting.explain), podpair_pb2.PredictRequest.FromString
        )
        front.add_registered_method_handlers(_PODPAIR.full_name, {"PredictStream": streamed})
        front.add_direct(_PODPAIR.full_name, "Predict", calls.direct(podpair.predict))
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, front)
        names = (*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(reflection.aio.ReflectionServicer(names), front)

    async def start(self, address: str) -> int:
        """Listen at `host:port` or `unix:path`, and be healthy; the port. Raises RuntimeError if it is taken."""
        bound = await self._front.start(address)
        for name in ("", *SERVICES):
            await self._health.set(name, _SERVING)
        return bound

    async def refuse(self) -> None:
        """Be unhealthy from now on."""
        await self._health.enter_graceful_shutdown()

    async def stop(self, seconds: float) -> None:
        """End the connections once their calls are answered, or the time is up."""
        await self._front.stop(seconds)


def _unary(calls: Calls, service: object, method: Any) -> Any:
    """A method's handler; messages are those of its descriptor."""
    return grpc.unary_unary_rpc_method_handler(
        calls.unary(getattr(service, method.name)),
        method.input_type._concrete_class.FromString,
        method.output_type._concrete_class.SerializeToString,
    )
