"""What a client is given of a watched answer: token by token, whatever comes in which order."""

import asyncio
import itertools
import math
import random
from collections.abc import Iterator, Sequence

import pytest
from vllm.outputs import RequestOutput
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.v1.engine.exceptions import EngineDeadError

from forward.clauses import TokenClause
from service.engine.generate import SUBMISSION_SECONDS, StampedGenerate
from service.engine.stamp import StampError
from tests.engine.watching import (
    HOLD,
    PROMPT,
    REFUSAL,
    TOKENIZER,
    Bench,
    Die,
    FakeEngine,
    Hang,
    Lose,
    P,
    Pause,
    Rows,
    Step,
    Tokens,
    bench,
    lease_of,
    logprob_of,
    watched,
)

DELTA, WHOLE = RequestOutputKind.DELTA, RequestOutputKind.FINAL_ONLY
GROWING = RequestOutputKind.CUMULATIVE
ANSWER = "a äb€c d"
BYTES = list(ANSWER.encode())
KINDS = pytest.mark.parametrize("kind", [DELTA, GROWING, WHOLE])


def params(kind: RequestOutputKind = DELTA, **more: object) -> SamplingParams:
    """Return what a route asks for."""
    return SamplingParams(output_kind=kind, max_tokens=100, **more)


def steps(
    answer: Sequence[int],
    high: Sequence[int] = (),
    sizes: Sequence[int] = (),
    finish: str = "length",
    child: int = 0,
    prompt_chunk: int = P,
) -> Iterator[Step]:
    """Yield an honest engine's steps: rows of what is fed, then what is sampled.

    Args:
        answer: The answer's tokens.
        high: Positions whose score is above the threshold.
        sizes: Tokens that steps give, all but the last of them accepted drafts; then one each.
        finish: The engine's reason.
        child: The choice.
        prompt_chunk: Prompt tokens a step.
    """

    def rows(start: int, tokens: Sequence[int]) -> Rows:
        scores = [float(start + i in high) for i in range(len(tokens))]
        return Rows(start, tokens, scores, child)

    for start in range(0, P, prompt_chunk):
        yield rows(start, PROMPT[start : start + prompt_chunk])
    given = 0
    for size in itertools.chain(sizes, itertools.repeat(1)):
        ids = list(answer[given : given + size])
        fed = [*answer[max(0, given - 1) : given], *ids[:-1]]
        if fed:
            yield rows(P + max(0, given - 1), fed)
        given += len(ids)
        is_last = given >= len(answer)
        yield Tokens(ids, finish if is_last else None, child)
        if is_last:
            return


def deltas(outputs: Sequence[RequestOutput], index: int = 0) -> tuple[str, list[int], str | None]:
    """Return text, tokens and reason that deltas of a choice add up to."""
    text, tokens, reason = "", list[int](), None
    for output in outputs:
        for piece in output.outputs:
            if piece.index == index:
                assert reason is None, "something came after the end"
                text, reason = text + piece.text, piece.finish_reason
                tokens.extend(piece.token_ids)
    return text, tokens, reason


def given(
    outputs: Sequence[RequestOutput], kind: RequestOutputKind, index: int = 0
) -> tuple[str, list[int], str | None]:
    """Return what a client of any kind knows at the end."""
    if kind == DELTA:
        return deltas(outputs, index)
    [last] = [p for o in outputs for p in o.outputs if p.index == index][-1:]
    return last.text, list(last.token_ids), last.finish_reason


def before(tokens: int) -> str:
    """Return the whole characters of the answer's first tokens."""
    return bytes(BYTES[:tokens]).decode("utf-8", errors="ignore")


@KINDS
@pytest.mark.parametrize("sizes", [(), (3, 1, 2), (1, 4)])
@pytest.mark.parametrize("chunk", [1, 2, P])
async def test_a_quiet_answer_is_what_vllm_gives(
    kind: RequestOutputKind, sizes: Sequence[int], chunk: int
) -> None:
    """Held, released and rebuilt, it equals vLLM's own output of the kind that was asked for."""
    made = bench(lambda: steps(BYTES, (), sizes, prompt_chunk=chunk), watched())
    outputs = await made.run(params(kind, logprobs=0))
    plain = FakeEngine(made.watching.tracks, lambda: steps(BYTES, (), sizes))
    expected = [o async for o in plain.generate({}, params(kind, logprobs=0), "cmpl-1")]
    assert outputs[-1].finished and not any(o.finished for o in outputs[:-1])
    assert given(outputs, kind) == given(expected, kind) == (ANSWER, BYTES, "length")
    last, own = expected[-1], outputs[-1]
    assert own.prompt_token_ids == last.prompt_token_ids == PROMPT
    assert own.outputs[0].cumulative_logprob == last.outputs[0].cumulative_logprob
    if kind != DELTA:
        assert repr(own.outputs) == repr(last.outputs)
    assert made.engine.seen[0].output_kind == DELTA
    [report] = made.sink.choices
    assert report.verdicts[0].coverage == 1 and report.verdicts[0].owed == P + len(BYTES) - 1
    assert made.report.header() == "none" and made.engine.aborted == 0


@KINDS
@pytest.mark.parametrize("at", range(-P, len(BYTES) - 1))
async def test_nothing_at_or_past_the_verdict(kind: RequestOutputKind, at: int) -> None:
    """Tokens before it and their whole characters are given, then the refusal; no more."""
    made = bench(lambda: steps(BYTES, [P + at]), watched())
    outputs = await made.run(params(kind, logprobs=0))
    keep = max(0, at)
    text, tokens, reason = given(outputs, kind)
    assert (text, tokens, reason) == (before(keep) + REFUSAL, BYTES[:keep], "content_filter")
    assert outputs[-1].finished
    end = [p for o in outputs for p in o.outputs][-1]
    total = [logprob_of(token) for token in BYTES[:keep]]
    assert end.cumulative_logprob == pytest.approx(math.fsum(total))
    if kind != DELTA:
        assert len(end.logprobs or []) == keep
    verdict = made.report.choices[0].verdicts[0]
    # A prompt is judged at its last token.
    assert (verdict.fired, verdict.token) == (True, max(at, -1))
    assert made.report.header() == "harm=refuse"
    # The score of the last token that is fed comes with the answer's end: nothing is left to abort.
    assert made.engine.aborted == (at < len(BYTES) - 2)


@pytest.mark.parametrize("sizes", [(4, 4, 4), (len(BYTES),), (2, 3)])
@pytest.mark.parametrize("at", [0, 1, 3, 4, 6])
async def test_a_verdict_inside_one_output(sizes: Sequence[int], at: int) -> None:
    """The part of a delta before it goes out: tokens, log-probabilities and text alike."""
    made = bench(lambda: steps(BYTES, [P + at], sizes), watched())
    outputs = await made.run(params(DELTA, logprobs=0))
    text, tokens, reason = deltas(outputs)
    assert (text, tokens, reason) == (before(at) + REFUSAL, BYTES[:at], "content_filter")
    logged = [entry for o in outputs for p in o.outputs for entry in p.logprobs or []]
    assert [next(iter(entry)) for entry in logged] == BYTES[:at]


async def test_stop_cuts_without_a_word() -> None:
    """Even an answer of nothing has an end that vLLM's streams do not drop."""
    for at in (-1, 0, 2):
        made = bench(lambda at=at: steps(BYTES, [P + at]), watched(do="stop"))
        outputs = await made.run(params())
        keep = max(0, at)
        assert deltas(outputs) == (before(keep), BYTES[:keep], "content_filter")
        end = outputs[-1].outputs[0]
        assert bool(end.token_ids) or bool(end.text)


async def test_a_token_waits_for_its_own_score() -> None:
    """Not for the next one's, and the last, which is never fed, for none.

    A score is looked at with the output of its own step, so the last two tokens go together.
    """
    seen: list[tuple[int, int]] = []
    scored = 0

    def script() -> Iterator[Step]:
        nonlocal scored
        for step in steps(BYTES):
            if isinstance(step, Rows):
                scored = step.start + len(step.tokens)
            yield step

    made = bench(script, watched())
    tokens = 0
    stream = made.generate({"prompt_token_ids": PROMPT}, params(), "cmpl-1")
    async for output in stream:
        tokens += len(output.outputs[0].token_ids)
        seen.append((tokens, scored))
    assert [count for count, _ in seen] == [*range(1, len(BYTES) - 1), len(BYTES)]
    assert all(P + count <= by for count, by in seen[:-1])


@pytest.mark.parametrize("seed", range(12))
async def test_scores_in_any_chunks_and_however_late(seed: int) -> None:
    """Rows are cut, delayed and fed again after a preemption: the same tokens go out."""
    chance = random.Random(seed)
    high = [P + chance.randrange(len(BYTES) - 1)] if seed % 3 else []

    def script() -> Iterator[Step]:
        late: list[Rows] = []
        for step in steps(BYTES, high):
            if isinstance(step, Rows):
                cut = chance.randrange(len(step.tokens) + 1)
                late += [part for part in _split(step, cut) if part.tokens]
                if chance.random() < 0.2:
                    stop = step.start + len(step.tokens)
                    fed = [*PROMPT, *BYTES][:stop]
                    late.append(Rows(0, fed, [float(i in high) for i in range(stop)]))
            else:
                yield step
            while late and chance.random() < 0.6:
                yield late.pop(0)
        yield from late

    made = bench(script, watched())
    outputs = await made.run(params())
    keep = high[0] - P if high else len(BYTES)
    end = REFUSAL if high else ""
    assert deltas(outputs)[:2] == (before(keep) + end, BYTES[:keep])
    assert made.report.choices[0].verdicts[0].coverage == 1


def _split(step: Rows, cut: int) -> tuple[Rows, Rows]:
    return (
        Rows(step.start, step.tokens[:cut], step.scores[:cut], step.child),
        Rows(step.start + cut, step.tokens[cut:], step.scores[cut:], step.child),
    )


async def test_rejected_drafts_release_nothing_and_fire_nothing() -> None:
    """A draft's score counts only if every token fed before it in the step is the answer's."""
    wrong = 1
    first = [Rows(0, PROMPT, [0, 0, 0]), Tokens(BYTES[:1])]
    # Fed: the first token, a wrong draft with a high score, and a right one behind it, also high.
    drafts = Rows(P, [BYTES[0], wrong, BYTES[2]], [0, 1, 1])
    then = [drafts, Tokens(BYTES[1:2])]
    rest = [Rows(P + 1, [BYTES[1]], [0]), Tokens(BYTES[2:3], "length")]
    made = bench([*first, *then, *rest], watched())
    assert deltas(await made.run(params())) == (before(3), BYTES[:3], "length")
    # The third token proves that the second was fed: its own score is overdue.
    held = bench([*first, *then, Tokens(BYTES[2:3]), Hang()], watched(on_error="block"))
    _, tokens, reason = deltas(await held.run(params()))
    assert (tokens, reason) == (BYTES[:1], "content_filter"), "a stale score released a token"
    assert held.report.choices[0].verdicts[0].fault == "timeout"


async def test_accepted_drafts_count() -> None:
    """What was accepted is scored in the step that fed it, beside the drafts that were not."""
    script = [
        Rows(0, PROMPT, [0, 0, 0]),
        Tokens(BYTES[:1]),
        Rows(P, [*BYTES[:3], 1], [0, 0, 1, 1]),
        Tokens(BYTES[1:4]),
        Hang(),
    ]
    made = bench(script, watched())
    assert deltas(await made.run(params()))[1:] == (BYTES[:2], "content_filter")


@pytest.mark.parametrize("do", ["refuse", "stop"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
async def test_a_score_that_is_no_number(do: str, bad: float) -> None:
    """Blocks at its token, or passes and is counted."""

    def script() -> Iterator[Step]:
        for step in steps(BYTES):
            if isinstance(step, Rows) and step.start == P + 2:
                yield Rows(step.start, step.tokens, [bad])
            else:
                yield step

    blocked = bench(script, watched(do=do))
    _, tokens, reason = deltas(await blocked.run(params()))
    assert (tokens, reason) == (BYTES[:2], "content_filter")
    verdict = blocked.report.choices[0].verdicts[0]
    assert (verdict.fault, verdict.fired, verdict.token) == ("nan", False, 2)
    assert dict(verdict.unscored) == {"nan": 1} and verdict.coverage < 1
    passed = bench(script, watched(do=do, on_error="pass"))
    assert deltas(await passed.run(params())) == (ANSWER, BYTES, "length")
    verdict = passed.report.choices[0].verdicts[0]
    assert (verdict.fault, verdict.action) == ("nan", "pass")
    assert passed.report.header() == "harm=pass"


async def test_lost_messages() -> None:
    """A gap is a fault of the channel at its first position; what came before it went out."""

    def script() -> Iterator[Step]:
        for step in steps(BYTES):
            if isinstance(step, Rows) and step.start in (P + 2, P + 3):
                yield Lose()
            else:
                yield step

    blocked = bench(script, watched())
    text, tokens, reason = deltas(await blocked.run(params()))
    assert (text, tokens, reason) == (before(2) + REFUSAL, BYTES[:2], "content_filter")
    verdict = blocked.report.choices[0].verdicts[0]
    assert verdict.fault == "channel" and verdict.unscored["channel"] == 2
    passed = bench(script, watched(on_error="pass"))
    assert deltas(await passed.run(params()))[0] == ANSWER
    assert passed.report.choices[0].verdicts[0].unscored == {"channel": 2}


async def test_a_prefix_hit_under_an_enforcing_monitor_is_a_fault() -> None:
    """Should the cache be read all the same, prompt tokens are owed and missing."""
    script = [Rows(2, PROMPT[2:], [0]), Tokens(BYTES[:1]), Rows(3, BYTES[:1], [0]), Hang()]
    made = bench(script, watched(clause=TokenClause("prompt")))
    assert deltas(await made.run(params()))[2] == "content_filter"
    verdict = made.report.choices[0].verdicts[0]
    assert (verdict.fault, dict(verdict.unscored)) == ("prefix_cache", {"prefix_cache": 2})
    late = bench([*script[:3], Tokens(BYTES[1:2], "length")], watched(clause=_generation()))
    assert deltas(await late.run(params())) == (before(2), BYTES[:2], "length")
    assert late.report.choices[0].verdicts[0].coverage == 1


def _generation(start: int = 0) -> TokenClause:
    return TokenClause("generation", start)


@pytest.mark.parametrize("on_error", ["block", "pass"])
async def test_scores_that_never_come(on_error: str) -> None:
    """After a while that is a fault too, and nothing unscored went out before it."""
    quiet = [step for step in steps(BYTES) if not isinstance(step, Rows) or step.start < P + 2]
    made = bench(quiet, watched(on_error=on_error))
    text, tokens, reason = deltas(await made.run(params()))
    assert made.report.choices[0].verdicts[0].fault == "timeout"
    if on_error == "pass":
        assert (text, tokens, reason) == (ANSWER, BYTES, "length")
    else:
        assert (text, tokens, reason) == (before(2) + REFUSAL, BYTES[:2], "content_filter")


@pytest.mark.parametrize(("on_error", "said"), [("block", REFUSAL), ("pass", ANSWER)])
async def test_an_unfit_monitor_from_the_start(on_error: str, said: str) -> None:
    """A calibration that does not hold decides before the first token."""
    made = bench(lambda: steps(BYTES), watched(fault="another model", on_error=on_error))
    assert deltas(await made.run(params()))[0] == said
    assert made.report.choices[0].verdicts[0].fault == "calibration"


async def test_a_dead_engine_is_an_error_and_nothing_unscored_goes_out() -> None:
    """What was held is lost with it."""
    script = [Rows(0, PROMPT, [0, 0, 0]), Tokens(BYTES[:1]), Die()]
    made = bench(script, watched())
    stream = made.generate({"prompt_token_ids": PROMPT}, params(), "cmpl-1")
    with pytest.raises(EngineDeadError):
        await anext(stream)
    assert made.slots.held == 0
    assert not made.watching.tracks._open


@KINDS
async def test_one_choice_of_two_is_silenced_alone(kind: RequestOutputKind) -> None:
    """The other goes on to its end, and both are in the last output of a whole answer."""
    other = list(b"still here, and longer")

    def script() -> Iterator[Step]:
        one, two = steps(BYTES, [P + 1]), steps(other, child=1)
        for pair in itertools.zip_longest(one, two):
            yield from filter(None, pair)

    made = bench(script, watched())
    outputs = await made.run(params(kind, n=2))
    first, second = given(outputs, kind, 0), given(outputs, kind, 1)
    assert first == (before(1) + REFUSAL, BYTES[:1], "content_filter")
    assert second == ("still here, and longer", other, "length")
    assert outputs[-1].finished and not any(o.finished for o in outputs[:-1])
    assert made.engine.aborted == 0
    if kind == WHOLE:
        [output] = outputs
        assert [piece.index for piece in output.outputs] == [0, 1]
    shown = made.report.shown()
    assert [c["index"] for c in shown["choices"]] == [0, 1]
    assert shown["verdicts"]["harm"]["fired"]


@KINDS
@pytest.mark.parametrize("high", [(), (P - 1,), (P + 2,)])
@pytest.mark.parametrize(
    "fields", [{"mode": "shadow"}, {"do": "alert"}, {"do": "log"}, {"mode": "shadow", "fault": "x"}]
)
async def test_what_only_looks_changes_nothing(
    kind: RequestOutputKind, high: Sequence[int], fields: dict[str, str]
) -> None:
    """Shadow, log and alert: the same objects in the same order as without a monitor."""
    made = bench(lambda: steps(BYTES, high), watched(**fields))
    outputs = await made.run(params(kind, logprobs=0))
    plain = FakeEngine(made.watching.tracks, lambda: steps(BYTES, high))
    expected = [o async for o in plain.generate({}, params(kind, logprobs=0), "cmpl-1")]
    assert [repr(o) for o in outputs] == [repr(o) for o in expected]
    assert made.engine.seen[0].output_kind == kind
    [verdict] = made.sink.choices[0].verdicts
    assert (verdict.fired, verdict.coverage, verdict.ended) == (bool(high), 1, False)


@pytest.mark.parametrize("wants", [True, False])
async def test_a_shadow_that_hears_nothing_changes_nothing(wants: bool) -> None:
    """Its coverage says so, soon after the answer's end."""
    quiet = [step for step in steps(BYTES) if isinstance(step, Tokens)]
    made = bench(quiet, watched(mode="shadow"), wants_scores=wants)
    assert deltas(await made.run(params())) == (ANSWER, BYTES, "length")
    [verdict] = made.sink.choices[0].verdicts
    assert (verdict.coverage, dict(verdict.unscored)) == (0, {"late": P + len(BYTES) - 1})


async def test_two_monitors_the_earlier_ends_it() -> None:
    """Whichever is listed first; a shadow beside them is told in full, up to there."""

    def script() -> Iterator[Step]:
        for step in steps(BYTES):
            if not isinstance(step, Rows):
                yield step
                continue
            scores = [
                [float(p == P + 4), float(p == P + 2), 1.0]
                for p in range(step.start, step.start + len(step.tokens))
            ]
            yield Rows(step.start, step.tokens, scores)

    monitors = watched("a", 0), watched("b", 1, do="stop"), watched("c", 2, mode="shadow")
    made = bench(script, *monitors)
    assert deltas(await made.run(params())) == (before(2), BYTES[:2], "content_filter")
    a, b, c = made.report.choices[0].verdicts
    assert (a.fired, b.fired, b.ended, c.fired, c.action) == (False, True, True, True, "none")
    assert a.coverage == b.coverage == c.coverage == 1
    assert made.report.header() == "b=stop"


async def test_a_clause_from_the_third_token_holds_none_before() -> None:
    """Tokens that no enforcing monitor is owed go out as they come."""
    quiet = [step for step in steps(BYTES) if isinstance(step, Tokens)]
    made = bench([*quiet[:4], Hang()], watched(clause=_generation(2)))
    _, tokens, reason = deltas(await made.run(params()))
    assert (tokens, reason) == (BYTES[:2], "content_filter")


async def test_a_client_that_goes_away_leaves_nothing_behind() -> None:
    """Rows and tracks are let go, and the engine is told."""
    made = bench([*itertools.islice(steps(BYTES), 6), Hang()], watched())
    stream = made.generate({"prompt_token_ids": PROMPT}, params(), "cmpl-1")
    await anext(stream)
    await stream.aclose()
    assert made.slots.held == 0 and made.engine.aborted == 1
    assert not made.watching.tracks._open
    [choice] = made.sink.choices
    assert choice.verdicts[0].fault is None


async def test_a_client_that_leaves_an_unstreamed_answer_ends_it() -> None:
    """The first output would be the whole answer: what is submitted is aborted without it."""
    made = bench([*itertools.islice(steps(BYTES), 6), Hang()], watched(mode="shadow"))
    final = params(RequestOutputKind.FINAL_ONLY)
    asked = asyncio.ensure_future(anext(made.generate({"prompt_token_ids": PROMPT}, final, "a")))
    await asyncio.sleep(0.05)
    asked.cancel()
    async with asyncio.timeout(3 * SUBMISSION_SECONDS):
        while made.slots.held or not made.engine.aborted:
            await asyncio.sleep(0.02)
    assert made.engine.aborted == 1 and not made.watching.tracks._open


@pytest.mark.parametrize(
    ("clause", "skips"),
    [("all", True), ("prompt", True), ("last_prompt", False), ("generation", False)],
)
async def test_the_prefix_cache_is_not_read_past_a_prompt_monitor(clause: str, skips: bool) -> None:
    """In any mode; what that costs is counted."""
    for mode in ("shadow", "enforce"):
        made = bench(lambda: steps(BYTES), watched(mode=mode, clause=TokenClause(clause)))
        await made.run(params())
        assert bool(made.engine.seen[0].skip_reading_prefix_cache) == skips
        assert made.sink.prefix == (P if skips else 0)


async def test_a_stop_string_is_kept_when_a_verdict_comes_before_it() -> None:
    """Text that the engine cut at a stop string stays cut."""

    for at, kept in ((3, "a "), (5, "a ä")):
        made = bench(lambda at=at: steps(BYTES, [P + at], (1, 1, 1, len(BYTES) - 3)), watched())
        text, tokens, reason = deltas(await made.run(params(stop=["b€"])))
        assert (text, tokens, reason) == (kept + REFUSAL, BYTES[:at], "content_filter")


async def test_the_prompt_is_kept_only_where_a_policy_captures() -> None:
    """And only for a verdict that is an event."""
    for captures, high, kept in ((True, [P], "hi!"), (True, [], None), (False, [P], None)):
        made = bench(lambda high=high: steps(BYTES, high), watched(captures=captures))
        await made.run(params())
        assert made.sink.choices[0].captured == kept


async def test_a_trace_is_kept_only_where_a_policy_captures() -> None:
    """Every token's score stands at its token, and nothing follows the verdict's."""
    uses = watched(captures=True), watched("lie", mode="shadow")
    made = bench(lambda: steps(BYTES, [P + 1]), *uses)
    await made.run(params())
    trace = made.sink.choices[0].trace
    assert trace is not None and (trace.first, trace.prompt_length) == (0, P)
    assert trace.tokens == ("h", "i", "!", "a", " ")
    assert list(trace.scores) == ["harm"], "the other monitor's policy captures nothing"
    assert [score is not None and score > 0.5 for score in trace.scores["harm"]] == [
        *(False for _ in range(P + 1)),
        True,
    ]
    assert (trace.prompt, trace.answer, trace.thresholds) == ("hi!", "a", {"harm": 0.5})
    for quiet in (watched(), watched(captures=True)):
        made = bench(lambda quiet=quiet: steps(BYTES, [P + 1] if not quiet.captures else []), quiet)
        await made.run(params())
        assert made.sink.choices[0].trace is None


async def test_monitors_without_a_channel_are_refused() -> None:
    """Never served unwatched."""
    lease = lease_of(watched())
    engine = FakeEngine(bench([]).watching.tracks, lambda: iter([]))
    generate = StampedGenerate(engine.generate, lambda: lease)
    with pytest.raises(StampError, match="no scores reach"):
        generate({"prompt_token_ids": PROMPT}, params(), "cmpl-1")


async def test_requests_of_one_answer_are_numbered_in_order() -> None:
    """Two prompts of two choices each are four choices of the answer."""
    made = bench(
        lambda: itertools.chain(steps(BYTES), steps(BYTES, child=1)), watched(mode="shadow")
    )
    for _ in range(2):
        await made.run(params(n=2))
    assert sorted(made.report.choices) == [0, 1, 2, 3]


def test_the_tokenizer_of_these_tests_is_bytes() -> None:
    """So a character may span tokens."""
    assert TOKENIZER.encode("ä€") == list("ä€".encode())


def held_bench() -> Bench:
    """Return a bench with an enforcing monitor and an honest engine."""
    return bench(lambda: steps(BYTES), watched())


async def test_prompt_logprobs_are_given_once_or_with_the_whole() -> None:
    """None where they were not asked for."""
    for kind in (DELTA, WHOLE):
        outputs = await held_bench().run(params(kind))
        assert all(output.prompt_logprobs is None for output in outputs)


async def test_an_engine_that_is_busy_with_others_is_no_fault() -> None:
    """A token that was not fed yet has no score to be late: it is waited for, and then goes out."""
    fed = list(steps(BYTES))
    slow = bench([*fed[:4], Pause(3 * HOLD), *fed[4:]], watched(on_error="block"))
    text, tokens, reason = deltas(await slow.run(params()))
    assert (tokens, reason) == (BYTES, "length") and text
    assert slow.report.choices[0].verdicts[0].fault is None


async def test_a_score_that_is_late_once_does_not_let_the_rest_out_unscored() -> None:
    """Under ``pass`` only what is overdue goes out; a later verdict still ends the answer."""
    script = [
        Rows(0, PROMPT, [0, 0, 0]),
        Tokens(BYTES[:1]),
        Tokens(BYTES[1:2]),
        Pause(3 * HOLD),
        Rows(P + 1, BYTES[1:2], [0]),
        Tokens(BYTES[2:3]),
        Rows(P + 2, BYTES[2:3], [1]),
        Tokens(BYTES[3:4]),
        Hang(),
    ]
    made = bench(script, watched(on_error="pass"))
    _, tokens, reason = deltas(await made.run(params()))
    assert (tokens, reason) == (BYTES[:2], "content_filter")
    verdict = made.report.choices[0].verdicts[0]
    assert (verdict.fault, verdict.fired, verdict.token) == ("timeout", True, 2)
