"""What LangChain's ChatOpenAI makes of two gateways, as JSON: `langchain_calls.py HERE THERE KEY`, addresses with /v1."""

import json
import sys

from langchain_openai import ChatOpenAI, OpenAIEmbeddings

here, there, key = sys.argv[1:]


def chat(url=here, api_key=key, **more):
    return ChatOpenAI(model="llm", base_url=url, api_key=api_key, **{"max_retries": 0} | more)


def failure(work):
    try:
        work()
    except Exception as error:
        return [type(error).__name__, getattr(error, "status_code", None), getattr(error, "code", None)]
    return None


def total(message):
    return message.usage_metadata and message.usage_metadata["total_tokens"]


said = {}
one = chat().invoke("to be")
said["chat"] = [one.content, one.response_metadata["finish_reason"], total(one)]
parts = list(chat(stream_usage=True).stream("to be"))
said["stream"] = ["".join(part.content for part in parts), sum(total(part) or 0 for part in parts)]
look = {
    "name": "look",
    "description": "Looks",
    "parameters": {"type": "object", "properties": {"a": {"type": "number"}}},
}
called = chat().bind_tools([look]).invoke("to be")
said["tools"] = [[call["name"], call["args"]] for call in called.tool_calls]
streamed = None
for part in chat().bind_tools([look]).stream("to be"):
    streamed = part if streamed is None else streamed + part
said["streamed tools"] = [[call["name"], call["args"]] for call in streamed.tool_calls]
said["fails"] = failure(lambda: list(chat().stream("to !fail")))
said["cut"] = failure(lambda: list(chat().stream("to !break")))
said["refused"] = failure(lambda: chat().invoke("!status:409"))
said["key"] = failure(lambda: chat(api_key="x").invoke("to be"))
said["repeated"] = failure(lambda: chat(max_retries=2).invoke("!status:503"))
# It would count tokens by a table that it fetches, and send numbers instead of texts.
vectors = OpenAIEmbeddings(model="llm", base_url=here, api_key=key, check_embedding_ctx_length=False)
said["vectors"] = vectors.embed_documents(["abc", "d"])
first = chat(use_responses_api=True).invoke("to be")
said["response"] = [first.text, first.response_metadata["status"], total(first)]
said["typed"] = "".join(part.text for part in chat(there, use_responses_api=True).stream("to be or"))
follows = chat(there, use_responses_api=True, use_previous_response_id=True)
said["next"] = follows.invoke([("human", "to be"), first, ("human", "more")]).text
sys.stdout.write(json.dumps(said))
