"""The gRPC server: its services, their methods as bytes or messages, health and reflection. Importing this imports protobuf."""

from typing import Any

from podpair.inference.grpc import health_service, inference_service, predict_service, reflection_service
from podpair.inference.grpc.call import RpcServer
from podpair.inference.grpc.calls import Calls
from podpair.inference.grpc.proto import open_inference_pb2, podpair_pb2
from podpair.inference.grpc.status import Handler
from podpair.inference.runtime.catalog import Catalog
from podpair.inference.tracing import Tracing

_V2 = open_inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
_PODPAIR = podpair_pb2.DESCRIPTOR.services_by_name["Inference"]
# By grpcio's numbers.
_COMPRESSION = {"none": 0, "deflate": 1, "gzip": 2}
SERVICES = (_V2.full_name, _PODPAIR.full_name)


def options(max_body_bytes: int, compression: str) -> dict[str, int]:
    """Return the core's channel arguments. compression: of answers, for clients that can decompress them."""
    return {
        # Ports aren't shared with other processes.
        "grpc.so_reuseport": 0,
        # A message has more than the tensors: their description.
        "grpc.max_receive_message_length": max_body_bytes + 65_536,
        "grpc.max_send_message_length": -1,
        "grpc.default_compression_algorithm": _COMPRESSION[compression],
    }


class Server:
    """The services, and their health."""

    def __init__(self, rpc_server: RpcServer, catalog: Catalog, calls: Calls, tracing: Tracing) -> None:
        v2 = inference_service.InferenceService(catalog, calls, tracing)
        podpair = predict_service.PredictService(catalog, calls, tracing)
        self._rpc_server = rpc_server
        parsed = [method for method in _V2.methods if method.name not in ("ModelInfer", "ModelStreamInfer")]
        streamed = Handler(stream_stream=calls.stream(v2.ModelStreamInfer, inference_service.encode_error))
        rpc_server.add_registered_method_handlers(
            _V2.full_name,
            {method.name: _unary(calls, v2, method) for method in parsed} | {"ModelStreamInfer": streamed},
        )
        rpc_server.add_direct(_V2.full_name, "ModelInfer", calls.direct(v2.infer))
        streamed = Handler(
            stream_stream=calls.stream(podpair.PredictStream, predict_service.encode_error),
            request_deserializer=podpair_pb2.PredictRequest.FromString,
        )
        rpc_server.add_registered_method_handlers(_PODPAIR.full_name, {"PredictStream": streamed})
        rpc_server.add_direct(_PODPAIR.full_name, "Predict", calls.direct(podpair.predict))
        self._health = health_service.HealthService()
        rpc_server.add_registered_method_handlers(health_service.NAME, self._health.handlers)
        reflection = reflection_service.ReflectionService((*SERVICES, health_service.NAME))
        rpc_server.add_registered_method_handlers(reflection_service.NAME, reflection.handlers)

    async def start(self, address: str) -> int:
        """Listen at `host:port` or `unix:path`, and report health. Return the port. Raises RuntimeError if it is taken."""
        bound = await self._rpc_server.start(address)
        self._health.serve(("", *SERVICES))
        return bound

    async def refuse(self) -> None:
        """Report from now on that it is unhealthy."""
        self._health.refuse()

    async def stop(self, seconds: float) -> None:
        """Close the connections once their calls are answered, or the time is up."""
        await self._rpc_server.stop(seconds)


def _unary(calls: Calls, service: object, method: Any) -> Any:
    """Return a method's handler, with the messages of its descriptor."""
    return Handler(
        unary_unary=calls.unary(getattr(service, method.name)),
        request_deserializer=method.input_type._concrete_class.FromString,
        response_serializer=method.output_type._concrete_class.SerializeToString,
    )
