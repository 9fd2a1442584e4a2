"""The worlds a loop can be given: questions with a grader of text, and the running-sum testbed.

What can be found wrong without a model is found when a world is made: prompts that leave no room for a response, rows
that cannot be graded, conversations without a chat template. Leaves out: the protocol (`world`), how answers are
graded (`reward`), sampling.
"""

import re
from collections.abc import Sequence
from typing import Any, Protocol

import torch

from steersman.core.component import Hinted
from steersman.core.errors import UserError
from steersman.core.noise import permutation
from steersman.core.types import Rollouts, Scores
from steersman.language.encode import check_ids, encode_prompts
from steersman.language.hints import spliced, told
from steersman.language.text import response_texts, token_texts
from steersman.reward.model import RewardModel
from steersman.reward.verifiable import Graded, RewardFunction, Row, Verifiable
from steersman.task import chain_sum
from steersman.task.chain_sum import ChainSum
from steersman.task.prompts import Question, QuestionFile, Questions, draw
from steersman.task.world import Prompts

HELD_OUT_SEED = 0
"""Seed of chain_sum's held-out prompts; they are the same for every run."""
_TOKEN = re.compile("|".join(re.escape(t) for t in sorted(chain_sum.TOKENS, key=len, reverse=True)))


class TextGrader(Protocol):
    """What `TextWorld` asks of a grader of text; `reward.verifiable.Grader` is one."""

    @property
    def reward(self) -> Verifiable | RewardFunction:
        """What is graded."""
        ...

    def check_rows(self, rows: Sequence[Row]) -> None:
        """Refuse rows that cannot be graded."""
        ...

    def __call__(
        self,
        prompts: Sequence[str],
        completions: Sequence[str],
        rows: Sequence[Row],
        valid: Sequence[bool] | None = None,
    ) -> Graded:
        """Grade completions."""
        ...

    def close(self) -> None:
        """End what the grader started."""
        ...


class TextWorld:
    """Questions, encoded by a tokenizer, and a grader of the responses.

    Args:
        questions: the training prompts; those of a file are encoded and checked now, those of a generator when drawn.
        tokenizer: the policy's.
        grader: of text, or a reward model that reads the policy's token ids; None = responses are not graded.
        held_out: the prompts of evaluation; None = there are none.
        chat: whether a text prompt is a user's turn for the chat template, rather than taken as it is.
        context: most tokens the policy accepts; None = no limit.
        max_new_tokens: tokens a response may have; a prompt that leaves no room for them is refused by its id.

    Raises:
        UserError: no question; names the question that is too long, cannot be graded or cannot be rendered.
    """

    def __init__(
        self,
        questions: Questions,
        tokenizer: Any,
        grader: TextGrader | RewardModel | None,
        *,
        held_out: Questions | None = None,
        chat: bool = False,
        context: int | None = None,
        max_new_tokens: int = 1,
    ) -> None:
        self.tokenizer, self.grader, self.chat = tokenizer, grader, chat
        self._room = None if context is None else context - max_new_tokens
        self._limits = f"{max_new_tokens:,} new ones that exceeds the model's context of {context or 0:,}"
        self._questions, self._held_out = questions, held_out
        self._known: dict[int, list[list[int]]] = {}
        for source in (questions, held_out):
            if source is not None and len(source) < 1:
                raise UserError("there are no prompts", where="prompts")
            if isinstance(source, QuestionFile) and id(source) not in self._known:
                self._known[id(source)] = self._encoded(source.rows)

    @property
    def gives(self) -> tuple[str, ...]:
        """`correct` and `feedback` unless a reward model grades, and `answer` where a rule looks for one.

        Whether a user's function says what is correct is known only when it has been called.
        """
        if self.grader is None or isinstance(self.grader, RewardModel):
            return ()
        known = ("correct", "feedback")
        return (*known, "answer") if isinstance(self.grader.reward, Verifiable) else known

    @property
    def grades(self) -> bool:
        """Whether responses are graded."""
        return self.grader is not None

    @property
    def leaked(self) -> int:
        """Held-out questions whose tokens are also those of a training question; generators are not searched."""
        train, held_out = (self._known.get(id(s), []) for s in (self._questions, self._held_out))
        seen = set(map(tuple, train))
        return sum(tuple(ids) in seen for ids in held_out)

    def draw(self, n: int, seed: int, step: int, round: int = 0) -> Prompts:
        """`n` training prompts.

        Round 0 of steps 0, 1, 2 ... goes through the questions in one random order after the other. Refill rounds go
        through a random order of the step's own, those of its round 0 last; so within a step nothing repeats before
        everything was seen, and refills do not change what later steps see.
        """
        return self._prompts(self._questions, numbers(self._questions, n, seed, step, round), round)

    def held_out(self, n: int | None = None) -> Prompts | None:
        """The first `n` prompts of evaluation (None = all); None where there are none."""
        if self._held_out is None:
            return None
        return self._prompts(self._held_out, list(range(len(self._held_out)))[:n], 0)

    def grade(self, rollouts: Rollouts, rows: Sequence[Row]) -> Graded:
        """Grade responses by their text, without special tokens, or by the reward model; invalid rows stay invalid."""
        if len(rows) != len(rollouts):
            raise UserError(f"{len(rows)} rows for {len(rollouts)} responses", where="grade")
        if self.grader is None:
            raise UserError("there is no grader", where="grade")
        if isinstance(self.grader, RewardModel):
            return Graded(model_scores(self.grader, rollouts), (None,) * len(rollouts))
        prompts, completions = zip(*self.texts(rollouts), strict=True) if rows else ((), ())
        return self.grader(prompts, completions, rows, rollouts.valid.tolist())

    def texts(self, rollouts: Rollouts) -> list[tuple[str, str]]:
        """(prompt, response) of each row, without special tokens."""
        rows = zip(rollouts.ids.tolist(), rollouts.prompt_length.tolist(), strict=True)
        options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
        before = self.tokenizer.batch_decode([ids[:n] for ids, n in rows], **options) if len(rollouts) else []
        return list(zip(before, response_texts(rollouts, self.tokenizer), strict=True))

    def pieces(self, rollouts: Rollouts) -> list[list[str]]:
        """The text that each token of a row adds (`language.text.token_texts`)."""
        return token_texts(rollouts, self.tokenizer)

    def encode(self, before: Sequence[Any]) -> list[list[int]]:
        """Token ids of texts and conversations, encoded as prompts are (`chat` included); ids are taken as they are."""
        given = [told(x, self.tokenizer) if isinstance(x, Hinted) else x for x in before]
        return encode_prompts([self._turn(x) for x in given], self.tokenizer, where="context")

    def close(self) -> None:
        """End the grader's processes."""
        if not isinstance(self.grader, RewardModel | None):
            self.grader.close()

    def _prompts(self, source: Questions, places: Sequence[int], round: int) -> Prompts:
        known = self._known.get(id(source))
        asked = [source[i] for i in places]
        ids = self._encoded(asked) if known is None else [known[i] for i in places]
        group = torch.arange(len(places)) + (round << 32)
        return Prompts(tuple(map(tuple, ids)), group, tuple({**q.row, "prompt": q.prompt} for q in asked))

    def _encoded(self, questions: Sequence[Question]) -> list[list[int]]:
        """Token ids of questions that can be answered and graded."""
        if not isinstance(self.grader, RewardModel | None):
            self.grader.check_rows([q.row for q in questions])
        names = [q.id for q in questions]
        ids = encode_prompts([self._turn(q.prompt) for q in questions], self.tokenizer, places=names)
        for name, row in zip(names, ids, strict=True):
            if self._room is not None and len(row) > self._room:
                cure = "Shorten the prompt or lower max_new_tokens."
                raise UserError(f"the prompt has {len(row):,} tokens; with {self._limits}", where=name, cure=cure)
        return ids

    def _turn(self, prompt: Any) -> Any:
        return ({"role": "user", "content": prompt},) if self.chat and isinstance(prompt, str) else prompt


class ChainSumWorld:
    """The running-sum task on token ids; prompts are made when drawn, and each is new.

    Args:
        task: the knobs.
        held_out_size: prompts of evaluation, drawn independently of training; 0 = none.
    """

    gives = ("correct", "answer")

    def __init__(self, task: ChainSum, held_out_size: int = 0) -> None:
        if held_out_size < 0:
            raise UserError(f"is {held_out_size}", where="held_out_size", allowed="0 or more")
        self.task, self.held_out_size = task, held_out_size

    def draw(self, n: int, seed: int, step: int, round: int = 0) -> Prompts:
        """`n` training prompts."""
        return _from_rollouts(chain_sum.prompts(self.task, n, seed, step, round), f"chain_sum, step {step}")

    def held_out(self, n: int | None = None) -> Prompts | None:
        """The first `n` prompts of evaluation (None = all); None where there are none."""
        size = self.held_out_size if n is None else min(n, self.held_out_size)
        if size < 1:
            return None
        made = chain_sum.prompts(self.task, size, HELD_OUT_SEED, purpose="held-out")
        return _from_rollouts(made, "chain_sum, held out")

    def grade(self, rollouts: Rollouts, rows: Sequence[Row]) -> Graded:
        """1 if the answer is right, else 0; the answer is that of the prompt's digits. Invalid rows stay invalid."""
        if len(rows) != len(rollouts):
            raise UserError(f"{len(rows)} rows for {len(rollouts)} responses", where="grade")
        answer = torch.where(rollouts.valid, chain_sum.verify(rollouts)[0], -1).tolist()
        return Graded(chain_sum.grade(rollouts), tuple(None if a < 0 else str(a) for a in answer))

    def texts(self, rollouts: Rollouts) -> list[tuple[str, str]]:
        """(prompt, response) of each row, e.g. ("27=", "a22b79#9<eos>")."""
        spans = zip(rollouts.ids, rollouts.prompt_length.tolist(), rollouts.length.tolist(), strict=True)
        return [(chain_sum.text(ids[:begin]), chain_sum.text(ids[begin:end])) for ids, begin, end in spans]

    def pieces(self, rollouts: Rollouts) -> list[list[str]]:
        """The text of each token of a row, as in `chain_sum.TOKENS`."""
        rows = zip(rollouts.ids.tolist(), rollouts.length.tolist(), strict=True)
        return [[chain_sum.TOKENS[i] for i in ids[:n]] for ids, n in rows]

    def encode(self, before: Sequence[Any]) -> list[list[int]]:
        """Token ids of texts such as "27=?9="; ids are taken as they are."""
        return [_chain_sum_ids(x, i) for i, x in enumerate(before)]

    def close(self) -> None:
        """Nothing was started."""


def numbers(source: Questions, n: int, seed: int, step: int, round: int = 0) -> list[int]:
    """Which questions a step sees in a round; see `TextWorld.draw`.

    Args:
        source: the questions, N of them.
        n: prompts of a round, >= 1.
        seed: the run's seed.
        step: step of the run, >= 0.
        round: refill round within the step, >= 0.

    Returns:
        `n` numbers below N; a number comes twice within a step only where its order ends.
    """
    own = draw(source, n, seed, step)
    if round == 0:
        return own
    seen = set(own)
    order = permutation(len(source), seed, "refill prompts", step).tolist()
    order = [i for i in order if i not in seen] + list(dict.fromkeys(own))
    start = (round - 1) * n
    return [order[(start + i) % len(order)] for i in range(n)]


def model_scores(model: RewardModel, rollouts: Rollouts) -> Scores:
    """A reward model's scores, on the rollouts' device; a row that is not valid in the rollouts stays invalid."""
    there = next(model.model.parameters()).device
    scores, here = model(rollouts.to(there)), rollouts.ids.device
    valid = scores.valid.to(here) & rollouts.valid
    errors = scores.errors | {int(i): "the rollout is not valid" for i in (~rollouts.valid).nonzero()[:, 0]}
    value = torch.where(valid, scores.value.to(here), torch.nan)
    return Scores(value, valid, {k: x.to(here) for k, x in scores.parts.items()}, errors)


def _from_rollouts(made: Rollouts, name: str) -> Prompts:
    ids = [row[:n] for row, n in zip(made.ids.tolist(), made.prompt_length.tolist(), strict=True)]
    answers = chain_sum.target(made).tolist()
    names = [f"{name}, prompt {i}" for i in range(len(made))]
    rows = tuple({"id": x, "answer": str(a)} for x, a in zip(names, answers, strict=True))
    return Prompts(tuple(map(tuple, ids)), made.group, rows)


def _chain_sum_ids(before: Any, i: int) -> list[int]:
    where, allowed = f"context, row {i}", f"token ids, or text of {' '.join(chain_sum.TOKENS)}"
    if isinstance(before, Hinted):
        if before.place == "in_user_turn":
            raise UserError("chain_sum has no conversations", where="hint.place", allowed="after_prompt")
        return spliced(before, lambda text: _chain_sum_ids(text, i))
    if not isinstance(before, str):
        if not before or isinstance(before[0], dict):
            raise UserError("chain_sum has no conversations", where=where, allowed=allowed)
        return check_ids(before, where)
    found = _TOKEN.findall(before)
    if "".join(found) != before or not before:
        raise UserError(f"{before!r} is no text of chain_sum", where=where, allowed=allowed)
    return [chain_sum.TOKENS.index(t) for t in found]
