import io.cloudevents.CloudEvent;
import io.cloudevents.core.builder.CloudEventBuilder;
import io.cloudevents.core.message.Encoding;
import io.cloudevents.jackson.JsonFormat;
import io.cloudevents.kafka.CloudEventSerializer;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.time.OffsetDateTime;
import java.util.ArrayList;
import java.util.Base64;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeaders;

/** Events as the CloudEvents SDK for Java serializes them for Kafka, as JSON lines. Arguments: the session, the model's row. */
public class CloudEvents {
  static CloudEventBuilder event(String type, String id, String session, String contentType, byte[] data) {
    return CloudEventBuilder.v1().withId(id).withType(type).withSource(URI.create("/shop")).withSubject(session)
        .withTime(OffsetDateTime.now()).withData(contentType, data);
  }

  static String base64(byte[] value) {
    return Base64.getEncoder().encodeToString(value);
  }

  public static void main(String[] arguments) {
    String session = arguments[0];
    byte[] row = ("{\"data\":" + arguments[1] + "}").getBytes(StandardCharsets.UTF_8);
    for (Encoding encoding : Encoding.values()) {
      String mode = encoding.name().toLowerCase();
      Map<String, Object> settings = new HashMap<>();
      settings.put(CloudEventSerializer.ENCODING_CONFIG, encoding);
      if (encoding == Encoding.STRUCTURED) {
        settings.put(CloudEventSerializer.EVENT_FORMAT_CONFIG, JsonFormat.CONTENT_TYPE);
      }
      CloudEventSerializer serializer = new CloudEventSerializer();
      serializer.configure(settings, false);
      byte[] order = ("{\"mode\":\"" + mode + "\"}").getBytes(StandardCharsets.UTF_8);
      List<CloudEvent> events = new ArrayList<>();
      events.add(event("com.example.order", "json-" + mode, session, "application/json", order).build());
      events.add(event("com.example.order", "bytes-" + mode, session, "application/octet-stream",
          new byte[] {0, (byte) 255}).build());
      events.add(event("com.example.order", "text-" + mode, session, "text/plain",
          "hello".getBytes(StandardCharsets.UTF_8)).build());
      events.add(event("dev.podpair.request", "request-" + mode, session, "application/json", row)
          .withExtension("model", "digits").withExtension("deadline", OffsetDateTime.now().plusHours(1)).build());
      for (CloudEvent one : events) {
        RecordHeaders headers = new RecordHeaders();
        byte[] value = serializer.serialize("topic", headers, one);
        List<String> said = new ArrayList<>();
        for (Header header : headers) {
          said.add("\"" + header.key() + "\":\"" + base64(header.value()) + "\"");
        }
        System.out.println("{\"id\":\"" + one.getId() + "\",\"headers\":{" + String.join(",", said) + "},\"value\":\""
            + base64(value) + "\"}");
      }
    }
  }
}
