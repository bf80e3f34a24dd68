// Command producers writes a record for each key (standard input, a line each): producers BROKER TOPIC VARIANT.
package main

import (
	"bufio"
	"context"
	"hash"
	"log"
	"os"

	"github.com/IBM/sarama"
	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kgo"
)

func main() {
	broker, topic, variant := os.Args[1], os.Args[2], os.Args[3]
	var keys []string
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		keys = append(keys, lines.Text())
	}
	var err error
	switch variant {
	case "franz-go":
		err = withFranz(broker, topic, keys)
	case "sarama":
		err = withSarama(broker, topic, keys, nil)
	case "sarama-crc":
		err = withSarama(broker, topic, keys, sarama.NewConsistentCRCHashPartitioner)
	case "sarama-murmur2":
		err = withSarama(broker, topic, keys, sarama.NewCustomPartitioner(
			sarama.WithAbsFirst(), sarama.WithCustomHashFunction(newMurmur2)))
	case "kafka-go":
		err = withSegmentio(broker, topic, keys, nil)
	case "kafka-go-hash":
		err = withSegmentio(broker, topic, keys, &kafka.Hash{})
	case "kafka-go-murmur2":
		err = withSegmentio(broker, topic, keys, kafka.Murmur2Balancer{})
	default:
		log.Fatalf("no such variant: %s", variant)
	}
	if err != nil {
		log.Fatal(err)
	}
}

func withFranz(broker, topic string, keys []string) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(broker))
	if err != nil {
		return err
	}
	defer client.Close()
	var records []*kgo.Record
	for _, key := range keys {
		records = append(records, &kgo.Record{Topic: topic, Key: []byte(key), Value: []byte("{}")})
	}
	return client.ProduceSync(context.Background(), records...).FirstErr()
}

func withSarama(broker, topic string, keys []string, partitioner sarama.PartitionerConstructor) error {
	config := sarama.NewConfig()
	config.Producer.Return.Successes = true
	if partitioner != nil {
		config.Producer.Partitioner = partitioner
	}
	producer, err := sarama.NewSyncProducer([]string{broker}, config)
	if err != nil {
		return err
	}
	defer producer.Close()
	var messages []*sarama.ProducerMessage
	for _, key := range keys {
		messages = append(messages, &sarama.ProducerMessage{
			Topic: topic, Key: sarama.StringEncoder(key), Value: sarama.StringEncoder("{}")})
	}
	return producer.SendMessages(messages)
}

func withSegmentio(broker, topic string, keys []string, balancer kafka.Balancer) error {
	writer := &kafka.Writer{Addr: kafka.TCP(broker), Topic: topic, Balancer: balancer}
	var messages []kafka.Message
	for _, key := range keys {
		messages = append(messages, kafka.Message{Key: []byte(key), Value: []byte("{}")})
	}
	if err := writer.WriteMessages(context.Background(), messages...); err != nil {
		return err
	}
	return writer.Close()
}

// murmur2 is what Java's clients hash keys with. sarama has no such hash of its own.
type murmur2 struct{ data []byte }

func newMurmur2() hash.Hash32 { return &murmur2{} }

func (m *murmur2) Write(data []byte) (int, error) {
	m.data = append(m.data, data...)
	return len(data), nil
}
func (m *murmur2) Reset()         { m.data = m.data[:0] }
func (m *murmur2) Size() int      { return 4 }
func (m *murmur2) BlockSize() int { return 4 }
func (m *murmur2) Sum(to []byte) []byte {
	sum := m.Sum32()
	return append(to, byte(sum>>24), byte(sum>>16), byte(sum>>8), byte(sum))
}

func (m *murmur2) Sum32() uint32 {
	const factor = 0x5bd1e995
	data := m.data
	sum := uint32(0x9747b28c) ^ uint32(len(data))
	for ; len(data) >= 4; data = data[4:] {
		word := (uint32(data[0]) | uint32(data[1])<<8 | uint32(data[2])<<16 | uint32(data[3])<<24) * factor
		sum = sum*factor ^ (word^word>>24)*factor
	}
	if len(data) > 0 {
		for place, value := range data {
			sum ^= uint32(value) << (8 * place)
		}
		sum *= factor
	}
	sum ^= sum >> 13
	sum *= factor
	return sum ^ sum>>15
}
