// gRPC's client for Go: makes the calls of a plan, and says what came as JSON. Arguments: the address, the plan's file.
package main

import (
	"context"
	"encoding/json"
	"io"
	"os"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/status"
)

type plan struct {
	Infer, Large, Missing, Stuck []byte
	Stream                       [][]byte
	Many                         int
	InferPath                    string `json:"infer_path"`
	StreamPath                   string `json:"stream_path"`
}

type outcome struct {
	Message  []byte   `json:"message,omitempty"`
	Messages [][]byte `json:"messages,omitempty"`
	Code     int      `json:"code"`
	Details  string   `json:"details"`
}

// Messages are encoded already.
type asTheyAre struct{}

func (asTheyAre) Marshal(v any) ([]byte, error) { return *v.(*[]byte), nil }
func (asTheyAre) Unmarshal(data []byte, v any) error {
	*v.(*[]byte) = append([]byte{}, data...)
	return nil
}
func (asTheyAre) Name() string { return "proto" }

func failed(err error) outcome {
	said, _ := status.FromError(err)
	return outcome{Code: int(said.Code()), Details: said.Message()}
}

func main() {
	encoding.RegisterCodec(asTheyAre{})
	var given plan
	file, err := os.ReadFile(os.Args[2])
	if err == nil {
		err = json.Unmarshal(file, &given)
	}
	if err != nil {
		panic(err)
	}
	connection, err := grpc.NewClient(os.Args[1], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		panic(err)
	}
	always := context.Background()
	ask := func(ctx context.Context, message []byte, options ...grpc.CallOption) outcome {
		var answer []byte
		if err := connection.Invoke(ctx, given.InferPath, &message, &answer, options...); err != nil {
			return failed(err)
		}
		return outcome{Message: answer}
	}
	said := map[string]any{
		"infer": ask(always, given.Infer),
		"large": ask(always, given.Large),
		"gzip":  ask(always, given.Large, grpc.UseCompressor("gzip")),
	}
	many := make([]outcome, given.Many)
	var asked sync.WaitGroup
	for i := range many {
		asked.Go(func() { many[i] = ask(always, given.Infer) })
	}
	asked.Wait()
	said["many"] = many
	said["missing"] = ask(always, given.Missing)
	late, end := context.WithTimeout(always, 300*time.Millisecond)
	said["late"] = ask(late, given.Stuck)
	end()
	cancelled, cancel := context.WithCancel(always)
	time.AfterFunc(100*time.Millisecond, cancel)
	said["cancelled"] = ask(cancelled, given.Stuck)
	said["stream"] = stream(connection, given)
	said["after"] = ask(always, given.Infer)
	if err := json.NewEncoder(os.Stdout).Encode(said); err != nil {
		panic(err)
	}
}

func stream(connection *grpc.ClientConn, given plan) outcome {
	description := &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}
	call, err := connection.NewStream(context.Background(), description, given.StreamPath)
	if err != nil {
		return failed(err)
	}
	for _, message := range given.Stream {
		if err := call.SendMsg(&message); err != nil {
			return failed(err)
		}
	}
	call.CloseSend()
	var got [][]byte
	for {
		var message []byte
		err := call.RecvMsg(&message)
		if err == io.EOF {
			return outcome{Messages: got}
		}
		if err != nil {
			return failed(err)
		}
		got = append(got, message)
	}
}
