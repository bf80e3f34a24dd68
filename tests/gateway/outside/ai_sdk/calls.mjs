// What the Vercel AI SDK makes of two gateways, as JSON. Arguments: their addresses with /v1, the key.
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embedMany, generateText, jsonSchema, streamText, tool } from "ai";

const [hereUrl, thereUrl, apiKey] = process.argv.slice(2);
const compatible = (apiKey) => createOpenAICompatible({ name: "pair", baseURL: hereUrl, apiKey, includeUsage: true });
const pair = compatible(apiKey);
const openai = createOpenAI({ baseURL: thereUrl, apiKey });
const said = {};
const failure = async (work) => {
  try {
    await work();
  } catch (error) {
    const last = error.lastError ?? error; // of those that were repeated
    return [last.name, last.statusCode ?? null, last.isRetryable ?? null, error.errors?.length ?? 1];
  }
  return null;
};
// Every part of a stream by its kind; errors come as parts.
const read = async (result) => {
  let text = "";
  const errors = [];
  for await (const part of result.fullStream) {
    if (part.type === "text-delta") text += part.text;
    if (part.type === "error") errors.push(part.error?.message ?? String(part.error));
  }
  return [text, errors];
};
const quiet = { maxRetries: 0, onError: () => {} };

const one = await generateText({ model: pair("llm"), prompt: "to be" });
said.chat = [one.text, one.finishReason, one.usage.totalTokens];
const stream = streamText({ model: pair("llm"), prompt: "to be" });
said.stream = [...(await read(stream)), await stream.finishReason, (await stream.usage).totalTokens];
said.fails = await read(streamText({ model: pair("llm"), prompt: "to !fail", ...quiet }));
const cut = streamText({ model: pair("llm"), prompt: "to !break", ...quiet });
said.cut = (await read(cut)).map((each) => (Array.isArray(each) ? each.length : each));
const look = tool({ inputSchema: jsonSchema({ type: "object", properties: { a: { type: "number" } } }) });
const called = streamText({ model: pair("llm"), prompt: "to be", tools: { look } });
await read(called);
said.tools = (await called.toolCalls).map((call) => [call.toolName, call.input]);
const { embeddings } = await embedMany({ model: pair.embeddingModel("llm"), values: ["abc", "d"] });
said.vectors = embeddings;
said.refused = await failure(() => generateText({ model: pair("llm"), prompt: "!status:409", maxRetries: 0 }));
said.key = await failure(() => generateText({ model: compatible("x")("llm"), prompt: "to be" }));
said.repeated = await failure(() => generateText({ model: pair("llm"), prompt: "!status:503" }));
const response = await generateText({ model: openai.responses("llm"), prompt: "to be" });
said.response = [response.text, response.finishReason, response.usage.totalTokens];
const typed = streamText({ model: openai.responses("llm"), prompt: "to be or" });
said.typed = [...(await read(typed)), await typed.finishReason];
const id = response.response.id;
said.id = id.startsWith("resp_");
const next = await generateText({
  model: openai.responses("llm"), prompt: "more", providerOptions: { openai: { previousResponseId: id } },
});
said.next = next.text;
console.log(JSON.stringify(said));
