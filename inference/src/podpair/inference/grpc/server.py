"""The gRPC server: its services, their methods as bytes or messages, health and reflection. Importing this imports grpc."""

from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from podpair.inference.core.memory_budget import MemoryBudget
from podpair.inference.grpc import inference_service, predict_service
from podpair.inference.grpc.call import RpcServer
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
    """Return the core's channel arguments. compression: of answers, for clients that can decompress them."""
    return {
        # Ports aren't shared with other processes.
        "grpc.so_reuseport": 0,
        # A message has more than the tensors: their description.
        "grpc.max_receive_message_length": max_body_bytes + 65_536,
        "grpc.max_send_message_length": -1,
        "grpc.default_compression_algorithm": int(_COMPRESSION[compression]),
    }


class Server:
    """The services, and their health."""

    def __init__(
        self, rpc_server: RpcServer, catalog: Catalog, metrics: Metrics, tracing: Tracing, budget: MemoryBudget
    ) -> None:
        calls = Calls(metrics, budget)
        v2 = inference_service.InferenceService(catalog, calls, tracing)
        podpair = predict_service.PredictService(catalog, calls, tracing)
        self._rpc_server = rpc_server
        parsed = [method for method in _V2.methods if method.name not in ("ModelInfer", "ModelStreamInfer")]
        streamed = grpc.stream_stream_rpc_method_handler(
            calls.stream(v2.ModelStreamInfer, inference_service.encode_error)
        )
        rpc_server.add_registered_method_handlers(
            _V2.full_name,
            {method.name: _unary(calls, v2, method) for method in parsed} | {"ModelStreamInfer": streamed},
        )
        rpc_server.add_direct(_V2.full_name, "ModelInfer", calls.direct(v2.infer))
        streamed = grpc.stream_stream_rpc_method_handler(
            calls.stream(podpair.PredictStream, predict_service.encode_error), podpair_pb2.PredictRequest.FromString
        )
        rpc_server.add_registered_method_handlers(_PODPAIR.full_name, {"PredictStream": streamed})
        rpc_server.add_direct(_PODPAIR.full_name, "Predict", calls.direct(podpair.predict))
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, rpc_server)
        names = (*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(reflection.aio.ReflectionServicer(names), rpc_server)

    async def start(self, address: str) -> int:
        """Listen at `host:port` or `unix:path`, and report health. Return the port. Raises RuntimeError if it is taken."""
        bound = await self._rpc_server.start(address)
        for name in ("", *SERVICES):
            await self._health.set(name, _SERVING)
        return bound

    async def refuse(self) -> None:
        """Report from now on that it is unhealthy."""
        await self._health.enter_graceful_shutdown()

    async def stop(self, seconds: float) -> None:
        """Close the connections once their calls are answered, or the time is up."""
        await self._rpc_server.stop(seconds)


def _unary(calls: Calls, service: object, method: Any) -> Any:
    """Return a method's handler, with the messages of its descriptor."""
    return grpc.unary_unary_rpc_method_handler(
        calls.unary(getattr(service, method.name)),
        method.input_type._concrete_class.FromString,
        method.output_type._concrete_class.SerializeToString,
    )
