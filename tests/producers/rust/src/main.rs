//! Writes a record for each key (standard input, a line each): producers BROKER TOPIC VARIANT.

use std::error::Error;
use std::io::BufRead;
use std::time::Duration;

use kafka::client::{KafkaClient, ProduceMessage};
use kafka::producer::{DefaultPartitioner, Partitioner, Producer as KafkaProducer, Record, Topics};
use rdkafka::config::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let (broker, topic) = (&arguments[1], &arguments[2]);
    let keys = std::io::stdin().lock().lines().collect::<Result<Vec<String>, _>>()?;
    match arguments[3].as_str() {
        "rdkafka" => with_rdkafka(broker, topic, &keys, None),
        "rdkafka-murmur2" => with_rdkafka(broker, topic, &keys, Some("murmur2_random")),
        "kafka-chooses" => with_kafka(broker, topic, &keys),
        other => Err(format!("no such variant: {other}").into()),
    }
}

fn with_rdkafka(broker: &str, topic: &str, keys: &[String], partitioner: Option<&str>) -> Result<(), Box<dyn Error>> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", broker);
    if let Some(name) = partitioner {
        config.set("partitioner", name);
    }
    let producer: BaseProducer = config.create()?;
    for key in keys {
        producer.send(BaseRecord::to(topic).key(key).payload("{}")).map_err(|(error, _)| error)?;
    }
    Ok(producer.flush(Duration::from_secs(60))?)
}

/// Prints what the crate's default partitioner chooses: `partition TAB key`.
struct Telling(DefaultPartitioner);

impl Partitioner for Telling {
    fn partition(&mut self, topics: Topics<'_>, message: &mut ProduceMessage<'_, '_>) {
        self.0.partition(topics, message);
        println!("{}\t{}", message.partition, String::from_utf8_lossy(message.key.unwrap_or_default()));
    }
}

/// Brokers since Kafka 4.0 refuse what the crate writes, in the first version of the protocol; its choice is seen before.
fn with_kafka(broker: &str, topic: &str, keys: &[String]) -> Result<(), Box<dyn Error>> {
    let mut client = KafkaClient::new(vec![broker.to_owned()]);
    // A topic that was made a moment ago may be known without its partitions; the producer never asks again.
    for _ in 0..100 {
        client.load_metadata_all()?;
        if client.topics().partitions(topic).is_some_and(|all| all.iter().all(|one| one.is_available())) {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let mut producer = KafkaProducer::from_client(client).with_partitioner(Telling(Default::default())).create()?;
    let records: Vec<_> = keys.iter().map(|key| Record::from_key_value(topic, key.as_bytes(), "{}")).collect();
    match producer.send_all(&records) {
        Ok(_) => Err("the broker took the records: look where they have landed instead".into()),
        Err(error) => {
            eprintln!("not written: {error}");
            Ok(())
        }
    }
}
