"""A Python model in one file: is a sentence kind or not? Naive Bayes over a few dozen words, no library needed.

cd examples/python && podpair-inference serve --model sentiment:Sentiment
curl -s 127.0.0.1:8081/v2/models/sentiment/generate -d '{"input": "what a lovely day"}'
curl -sN 127.0.0.1:8081/v2/models/sentiment/generate_stream -d '{"input": "what a lovely day"}'
"""

import math
import re
from collections import Counter
from collections.abc import AsyncIterator, Sequence

KIND = "good great lovely happy love like nice wonderful fine best thanks glad fun warm kind enjoyed excellent sweet"
UNKIND = "bad awful sad hate ugly worst poor terrible broken never angry cold boring slow rude wrong useless sorry"


class Sentiment:
    """One sentence in, a label and how sure it is out; `stream` says what each word adds."""

    def load(self) -> None:
        kind, unkind = Counter(KIND.split()), Counter(UNKIND.split())
        words = kind.keys() | unkind.keys()
        # Log odds of a word, smoothed by one.
        self.odds = {word: math.log((kind[word] + 1) / (unkind[word] + 1)) for word in words}

    def predict(self, batch: Sequence[str]) -> list[dict[str, object]]:
        return [self.judge(sentence) for sentence in batch]

    async def stream(self, request: str) -> AsyncIterator[dict[str, object]]:
        for word in self.words(request):
            yield {"word": word, "adds": round(self.odds.get(word, 0.0), 2)}
        yield self.judge(request)

    def judge(self, sentence: str) -> dict[str, object]:
        score = 1 / (1 + math.exp(-sum(self.odds.get(word, 0.0) for word in self.words(sentence))))
        return {"label": "kind" if score >= 0.5 else "unkind", "score": round(score, 3)}

    @staticmethod
    def words(sentence: str) -> list[str]:
        return re.findall(r"\w+", sentence.lower())
