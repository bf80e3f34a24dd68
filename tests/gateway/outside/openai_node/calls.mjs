// What OpenAI's own client for Node.js makes of two gateways, as JSON. Arguments: their addresses with /v1, the key.
import OpenAI, { APIError } from "openai";

const [hereUrl, thereUrl, apiKey] = process.argv.slice(2);
const here = new OpenAI({ baseURL: hereUrl, apiKey, maxRetries: 0 });
const there = new OpenAI({ baseURL: thereUrl, apiKey, maxRetries: 0 });
const said = {};
const messages = (text) => [{ role: "user", content: text }];
const all = async (stream) => {
  const found = [];
  for await (const event of stream) found.push(event);
  return found;
};
const failure = async (work) => {
  try {
    await work();
  } catch (error) {
    if (!(error instanceof APIError)) throw error;
    return [error.status ?? null, error.code ?? null, error.type ?? null, Boolean(error.requestID)];
  }
  return null;
};

said.models = (await all(await here.models.list())).map((model) => model.id);
const chat = await here.chat.completions.create({ model: "llm", messages: messages("to be") });
said.chat = [chat.choices[0].message.content, chat.choices[0].finish_reason];
const chunks = await all(
  await here.chat.completions.create({
    model: "llm", messages: messages("to be"), stream: true, stream_options: { include_usage: true },
  }),
);
said.stream = [chunks.map((c) => c.choices[0]?.delta.content ?? "").join(""), chunks.at(-1).usage.total_tokens];
said.helper = await here.chat.completions.stream({ model: "llm", messages: messages("to be or") }).finalContent();
said.vectors = (await here.embeddings.create({ model: "llm", input: ["abc", "d"] })).data.map((one) => one.embedding);
said.refused = await failure(() => here.chat.completions.create({ model: "llm", messages: messages("!status:409") }));
said.key = await failure(() => new OpenAI({ baseURL: hereUrl, apiKey: "x", maxRetries: 0 }).models.list());
said.fails = await failure(async () =>
  all(await here.chat.completions.create({ model: "llm", messages: messages("to !break"), stream: true })),
);
const again = new OpenAI({ baseURL: hereUrl, apiKey, maxRetries: 2 });
said.repeated = await failure(() => again.chat.completions.create({ model: "llm", messages: messages("!status:503") }));

const made = await here.responses.create({ model: "llm", input: "to be" });
said.response = [made.status, made.output_text, made.usage.total_tokens];
said.elsewhere = JSON.stringify((await there.responses.retrieve(made.id)).output) === JSON.stringify(made.output);
const events = await all(await here.responses.create({ model: "llm", input: "to be", stream: true }));
said.types = [events[0].type, events.at(-1).type];
const rest = await all(
  await there.responses.retrieve(events[0].response.id, { stream: true, starting_after: events[4].sequence_number }),
);
said.resumed = JSON.stringify(rest) === JSON.stringify(events.slice(5));
said["helper of responses"] = (
  await here.responses.stream({ model: "llm", input: "to be or" }).finalResponse()
).output[0].content[0].text; // the helper's response has no output_text
said["helper resumes"] = (
  await there.responses.stream({ response_id: events[0].response.id, starting_after: 4 }).finalResponse()
).output[0].content[0].text;
let parked = await here.responses.create({ model: "llm", input: "five", background: true });
said.parked = parked.status;
while (["queued", "in_progress"].includes(parked.status)) parked = await there.responses.retrieve(parked.id);
said.ended = [parked.status, parked.output_text];
const items = [];
const input = [messages("one")[0], messages("two")[0], messages("three")[0]];
const three = await here.responses.create({ model: "llm", input });
for await (const item of there.responses.inputItems.list(three.id, { limit: 1 })) items.push(item.content[0].text);
said.items = items;
said.cancel = await failure(() => there.responses.cancel(made.id));
await there.responses.delete(made.id);
said.deleted = await failure(() => here.responses.retrieve(made.id));
console.log(JSON.stringify(said));
