"""Beliefs from an inference server that holds the policy's weights, by the log-probabilities of prompts.

The same questions as `scoring.LocalScorer` answers, for trainers whose policy does not fit beside them in one process. The
server is vLLM's, or any with its `prompt_logprobs` in `/v1/completions`. Each probe is one request whose prompt is the
context's token ids and the forced answer; the server's prefix cache, where it serves such requests, computes a context once.

Log-probabilities of prompts are those of the model itself, at temperature 1.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from functools import partial

from ...agents.endpoint import Endpoint, ServerFailure, ServerRefused
from ...envs.errors import TurnwiseError
from .scoring import Probe


class ScorerFailed(TurnwiseError, RuntimeError):
    """The server could not be reached, turned the request down, or does not give log-probabilities of prompts."""


class ServerScorer:
    """A `scoring.Scorer` behind HTTP.

    Args:
        url: base address, such as `http://localhost:8000/v1`; `/completions` is added.
        model: name that the server knows the policy by.
        key: sent as a bearer token; None sends none.
        concurrency: requests at a time.
        timeout: seconds for one attempt.
        retries: attempts after the first, where the server is not to be reached or overloaded.
        backoff: seconds before the first of them, doubled for each.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        key: str | None = None,
        concurrency: int = 32,
        timeout: float = 120.0,
        retries: int = 3,
        backoff: float = 1.0,
    ) -> None:
        self._model = model
        self._endpoint = Endpoint(
            url.rstrip("/") + "/completions",
            key=key,
            concurrency=concurrency,
            timeout=timeout,
            retries=retries,
            backoff=backoff,
            extra="judge",
        )

    async def log_probs(
        self, contexts: Sequence[Sequence[int]], probes: Sequence[Sequence[Probe]]
    ) -> list[list[list[float] | None]]:
        """See `scoring.Scorer`; None for a probe that the server finds too long.

        Raises:
            ScorerFailed: see the name.
            UsageError: aiohttp is not installed.
        """

        async def episode(context: Sequence[int], own: Sequence[Probe]) -> list[list[float] | None]:
            return await asyncio.gather(*(self._one(context, probe) for probe in own))

        try:
            return await asyncio.gather(*(episode(c, own) for c, own in zip(contexts, probes, strict=True)))
        finally:
            await self._endpoint.close()

    async def _one(self, context: Sequence[int], probe: Probe) -> list[float] | None:
        prompt = [*context[: probe.end], *probe.tokens]
        body = {
            "model": self._model,
            "prompt": prompt,
            "max_tokens": 1,
            "temperature": 0.0,
            "prompt_logprobs": 0,
            "add_special_tokens": False,
        }
        try:
            return await self._endpoint.post(body, partial(self._read, prompt=prompt, probe=probe))
        except ServerFailure as error:
            refused = isinstance(error, ServerRefused) and error.status in (400, 413)
            if refused and "length" in str(error).lower():
                return None
            raise ScorerFailed(
                f"{self._endpoint.url} gave no log-probabilities for a prompt of {len(prompt)} tokens; {error}"
            ) from error

    def _read(self, content: bytes, *, prompt: Sequence[int], probe: Probe) -> list[float]:
        try:
            given = json.loads(content)["choices"][0]["prompt_logprobs"]
            if len(given) != len(prompt):
                raise ValueError(f"{len(given)} entries for a prompt of {len(prompt)} tokens")
            at = range(probe.end + probe.first, len(prompt))
            return [float(given[m][str(prompt[m])]["logprob"]) for m in at]
        except (ValueError, LookupError, TypeError) as error:
            raise ScorerFailed(
                f"{self._endpoint.url} does not give log-probabilities of prompts as vLLM does ({type(error).__name__}: {error})."
            ) from error
