"""A model server on loopback: the two providers' protocols, answered without models, keys or money.

Tests, the demo and newcomers without a key call it with the providers' own SDKs over real HTTP. What a model does
follows its name; `router.llm.loopback.behaviour` has the table, `python -m router.llm.loopback` serves it.

    async with serve_loopback() as server:
        client = AsyncAnthropic(base_url=server.anthropic_url, api_key="any")
        answer = await client.messages.create(
            model="qwen2.5-7b-instruct", max_tokens=100, messages=[{"role": "user", "content": "[prompt 1234] Why?"}]
        )
        assert server.ledger.count("qwen2.5-7b-instruct") == 1
"""

from router.llm.loopback.ledger import Entry, Ledger
from router.llm.loopback.serving import Loopback, serve_loopback
from router.llm.loopback.world import World, quality_of

__all__ = ["Entry", "Ledger", "Loopback", "World", "quality_of", "serve_loopback"]
