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
from typing import Any

from ...envs.errors import TurnwiseError, UsageError
from .scoring import Probe

_RETRIED = {408, 409, 425, 429}  # and every 5xx


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
        self._url = url.rstrip("/") + "/completions"
        self._model = model
        self._headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        self._concurrency, self._timeout = concurrency, timeout
        self._retries, self._backoff = retries, backoff

    async def log_probs(
        self, contexts: Sequence[Sequence[int]], probes: Sequence[Sequence[Probe]]
    ) -> list[list[list[float] | None]]:
        """See `scoring.Scorer`; None for a probe that the server finds too long.

        Raises:
            ScorerFailed: see the name.
            UsageError: httpx is not installed.
        """
        try:
            import httpx
        except ImportError as error:
            raise UsageError("a scoring server needs httpx; pip install 'turnwise[judge]'") from error
        slots = asyncio.Semaphore(self._concurrency)
        limits = httpx.Limits(max_connections=self._concurrency)
        async with httpx.AsyncClient(limits=limits, headers=self._headers, timeout=self._timeout) as http:

            async def one(context: Sequence[int], probe: Probe) -> list[float] | None:
                async with slots:
                    return await self._one(http, httpx.HTTPError, context, probe)

            async def episode(context: Sequence[int], own: Sequence[Probe]) -> list[list[float] | None]:
                return await asyncio.gather(*(one(context, probe) for probe in own))

            return await asyncio.gather(*(episode(c, own) for c, own in zip(contexts, probes, strict=True)))

    async def _one(
        self, http: Any, lost: type[Exception], context: Sequence[int], probe: Probe
    ) -> list[float] | None:
        prompt = [*context[: probe.end], *probe.tokens]
        body = {
            "model": self._model,
            "prompt": prompt,
            "max_tokens": 1,
            "temperature": 0.0,
            "prompt_logprobs": 0,
            "add_special_tokens": False,
        }
        for attempt in range(self._retries + 1):
            if attempt:
                await asyncio.sleep(self._backoff * 2 ** (attempt - 1))
            try:
                response = await http.post(self._url, json=body)
            except lost as error:
                why = f"{type(error).__name__}: {error}"
                continue
            if response.status_code == 200:
                return self._read(response.content, prompt, probe)
            why = f"status {response.status_code}: {response.text[:200]}"
            if response.status_code not in _RETRIED and response.status_code < 500:
                if response.status_code in (400, 413) and "length" in response.text.lower():
                    return None
                break
        raise ScorerFailed(
            f"{self._url} gave no log-probabilities for a prompt of {len(prompt)} tokens; {why}"
        )

    def _read(self, content: bytes, prompt: Sequence[int], probe: Probe) -> list[float]:
        try:
            given = json.loads(content)["choices"][0]["prompt_logprobs"]
            if len(given) != len(prompt):
                raise ValueError(f"{len(given)} entries for a prompt of {len(prompt)} tokens")
            at = range(probe.end + probe.first, len(prompt))
            return [float(given[m][str(prompt[m])]["logprob"]) for m in at]
        except (ValueError, LookupError, TypeError) as error:
            raise ScorerFailed(
                f"{self._url} does not give log-probabilities of prompts as vLLM does ({type(error).__name__}: {error})."
            ) from error
