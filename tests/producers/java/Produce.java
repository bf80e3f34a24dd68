import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.Properties;
import java.util.concurrent.Future;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.StringSerializer;

/** Writes a record for each key (standard input, a line each): Produce BROKER TOPIC [name=value of the producer's configuration]. */
class Produce {
    public static void main(String[] arguments) throws Exception {
        Properties configuration = new Properties();
        configuration.put("bootstrap.servers", arguments[0]);
        for (int number = 2; number < arguments.length; number++) {
            String[] pair = arguments[number].split("=", 2);
            configuration.put(pair[0], pair[1]);
        }
        var keys = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8)).lines().toList();
        try (var producer = new KafkaProducer<>(configuration, new StringSerializer(), new StringSerializer())) {
            List<Future<?>> sent = new ArrayList<>();
            for (String key : keys) {
                sent.add(producer.send(new ProducerRecord<>(arguments[1], key, "{}")));
            }
            for (Future<?> one : sent) {
                one.get();
            }
        }
    }
}
