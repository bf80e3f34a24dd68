// gRPC's client for Node.js: makes the calls of a plan, and says what came as JSON. Arguments: the address, the plan's file.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { argv, cwd, stdout } from "node:process";

const grpc = createRequire(`${cwd()}/`)("@grpc/grpc-js");
const [address, file] = argv.slice(2);
const plan = JSON.parse(readFileSync(file));
const bytes = (name) => Buffer.from(plan[name], "base64");
const same = (buffer) => buffer;
const unlimited = { "grpc.max_receive_message_length": -1 };
const plain = new grpc.Client(address, grpc.credentials.createInsecure(), unlimited);
const gzip = new grpc.Client(address, grpc.credentials.createInsecure(), {
  ...unlimited,
  "grpc.default_compression_algorithm": 2,
});

function ask(client, message, options = {}, begun = () => {}) {
  return new Promise((resolve) => {
    const done = (error, answer) =>
      resolve(error ? { code: error.code, details: error.details } : { message: answer.toString("base64") });
    begun(client.makeUnaryRequest(plan.infer_path, same, same, message, new grpc.Metadata(), options, done));
  });
}

function stream(messages) {
  return new Promise((resolve) => {
    const got = [];
    const call = plain.makeBidiStreamRequest(plan.stream_path, same, same, new grpc.Metadata(), {});
    call.on("data", (message) => got.push(message.toString("base64")));
    call.on("error", (error) => resolve({ code: error.code, details: error.details }));
    call.on("end", () => resolve({ messages: got }));
    for (const message of messages) call.write(Buffer.from(message, "base64"));
    call.end();
  });
}

const said = {
  infer: await ask(plain, bytes("infer")),
  large: await ask(plain, bytes("large")),
  gzip: await ask(gzip, bytes("large")),
  many: await Promise.all(Array.from({ length: plan.many }, () => ask(plain, bytes("infer")))),
  missing: await ask(plain, bytes("missing")),
  late: await ask(plain, bytes("stuck"), { deadline: Date.now() + 300 }),
  cancelled: await ask(plain, bytes("stuck"), {}, (call) => setTimeout(() => call.cancel(), 100)),
  stream: await stream(plan.stream),
  after: await ask(plain, bytes("infer")),
};
stdout.write(JSON.stringify(said));
plain.close();
gzip.close();
