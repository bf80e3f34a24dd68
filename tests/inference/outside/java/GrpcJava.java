// gRPC's client for Java, on Netty: makes the calls of a plan, and says what came as JSON. Arguments: the address, the plan's file.

import com.google.gson.Gson;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import io.grpc.CallOptions;
import io.grpc.ClientCall;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.Status;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Base64;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;

public class GrpcJava {
    static final MethodDescriptor.Marshaller<byte[]> BYTES = new MethodDescriptor.Marshaller<>() {
        public InputStream stream(byte[] value) {
            return new ByteArrayInputStream(value);
        }

        public byte[] parse(InputStream stream) {
            try {
                return stream.readAllBytes();
            } catch (IOException error) {
                throw new RuntimeException(error);
            }
        }
    };
    static ManagedChannel channel;

    static MethodDescriptor<byte[], byte[]> method(String path, MethodDescriptor.MethodType type) {
        return MethodDescriptor.<byte[], byte[]>newBuilder()
            .setType(type)
            .setFullMethodName(path.substring(1))
            .setRequestMarshaller(BYTES)
            .setResponseMarshaller(BYTES)
            .build();
    }

    static class Asked extends ClientCall.Listener<byte[]> {
        final CompletableFuture<Map<String, Object>> outcome = new CompletableFuture<>();
        final List<String> messages = new ArrayList<>();
        final ClientCall<byte[], byte[]> call;
        final boolean several;

        Asked(MethodDescriptor<byte[], byte[]> method, CallOptions options, List<byte[]> sent) {
            several = method.getType() != MethodDescriptor.MethodType.UNARY;
            call = channel.newCall(method, options);
            call.start(this, new Metadata());
            call.request(several ? 1000 : 2);
            call.setMessageCompression(options.getCompressor() != null);
            for (byte[] message : sent) {
                call.sendMessage(message);
            }
            call.halfClose();
        }

        public void onMessage(byte[] message) {
            messages.add(Base64.getEncoder().encodeToString(message));
        }

        public void onClose(Status status, Metadata trailers) {
            Map<String, Object> said = new LinkedHashMap<>();
            if (!status.isOk()) {
                said.put("code", status.getCode().value());
                said.put("details", status.getDescription());
            } else if (several) {
                said.put("messages", messages);
            } else {
                said.put("message", messages.get(0));
            }
            outcome.complete(said);
        }
    }

    public static void main(String[] arguments) throws Exception {
        JsonObject plan = JsonParser.parseString(Files.readString(Path.of(arguments[1]))).getAsJsonObject();
        channel = Grpc.newChannelBuilder(arguments[0], InsecureChannelCredentials.create())
            .maxInboundMessageSize(Integer.MAX_VALUE)
            .build();
        var infer = method(plan.get("infer_path").getAsString(), MethodDescriptor.MethodType.UNARY);
        var stream = method(plan.get("stream_path").getAsString(), MethodDescriptor.MethodType.BIDI_STREAMING);
        Map<String, byte[]> sent = new LinkedHashMap<>();
        for (String name : List.of("infer", "large", "missing", "stuck")) {
            sent.put(name, Base64.getDecoder().decode(plan.get(name).getAsString()));
        }
        List<byte[]> streamed = new ArrayList<>();
        plan.getAsJsonArray("stream").forEach(one -> streamed.add(Base64.getDecoder().decode(one.getAsString())));
        var options = CallOptions.DEFAULT;
        Map<String, Object> said = new LinkedHashMap<>();
        said.put("infer", new Asked(infer, options, List.of(sent.get("infer"))).outcome.get());
        said.put("large", new Asked(infer, options, List.of(sent.get("large"))).outcome.get());
        said.put("gzip", new Asked(infer, options.withCompression("gzip"), List.of(sent.get("large"))).outcome.get());
        List<Asked> many = new ArrayList<>();
        for (int i = 0; i < plan.get("many").getAsInt(); i++) {
            many.add(new Asked(infer, options, List.of(sent.get("infer"))));
        }
        List<Object> answered = new ArrayList<>();
        for (Asked asked : many) {
            answered.add(asked.outcome.get());
        }
        said.put("many", answered);
        said.put("missing", new Asked(infer, options, List.of(sent.get("missing"))).outcome.get());
        var late = options.withDeadlineAfter(300, TimeUnit.MILLISECONDS);
        said.put("late", new Asked(infer, late, List.of(sent.get("stuck"))).outcome.get());
        Asked cancelled = new Asked(infer, options, List.of(sent.get("stuck")));
        Thread.sleep(100);
        cancelled.call.cancel("no longer", null);
        said.put("cancelled", cancelled.outcome.get());
        said.put("stream", new Asked(stream, options, streamed).outcome.get());
        said.put("after", new Asked(infer, options, List.of(sent.get("infer"))).outcome.get());
        System.out.println(new Gson().toJson(said));
        channel.shutdown().awaitTermination(30, TimeUnit.SECONDS);
    }
}
