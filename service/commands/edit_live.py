"""``trimtab edit evaluate --policy``: what the clients of a server get under a policy, measured."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from service.binding_schema import NO_POLICY
from service.commands.edit_output import print_plain_scores, progress
from service.commands.edit_server import EditServer, edit_server
from service.commands.output import CommandError, print_json, print_line

if TYPE_CHECKING:
    from editing.cases import Case
    from editing.intervals import Estimate
    from service.live_server import LiveServer, Ran

Scores = Mapping[str, Mapping[str, Any]]


def evaluate_live(
    url: str,
    policy: str,
    cases: "Sequence[Case]",
    accuracies: bool,
    tokenizer: str | None,
    key: str | None,
    as_json: bool,
) -> None:
    """Measure a policy of a server on cases, beside the same server with no policy chosen.

    Args:
        url: Where the server is.
        policy: The policy's name.
        cases: What it is judged on.
        accuracies: Judge as zsRE does.
        tokenizer: Folder or hub name; None is the server's own checkpoint, if that is here.
        key: The server's inference key, if it needs one.
        as_json: Print JSON.

    Raises:
        LiveError: The server refuses, or what it answered was not under the policies asked for.
        CommandError: The policy changes no answer.
        EditError: A case cannot be asked.
    """
    from service.live_server import LiveServer
    from service.live_speaker import refuse_unlike

    admin = edit_server(url)
    listed = _applied(admin, policy)
    notes = notes_of(listed, admin.edits())
    with LiveServer(url, key) as server:
        model, found = _opened(server, tokenizer, cases)
        asked = [("unedited", NO_POLICY, None), ("edited", policy, int(listed["revision"]))]
        measured = {
            stage: _measure((server, model, found), (stage, name, number), cases, accuracies)
            for stage, name, number in asked
        }
    (before, plain), (after, changed) = measured["unedited"], measured["edited"]
    refuse_unlike(before, after, policy)
    scores = {"unedited": _plain(plain), "edited": _plain(changed)}
    policies = {"unedited": list(before.policies), "edited": list(after.policies)}
    _show({"cases": len(cases), "policies": policies, "notes": notes, **scores}, as_json)


def _measure(
    speaking: "tuple[LiveServer, str, Any]",
    asked: tuple[str, str, int | None],
    cases: "Sequence[Case]",
    accuracies: bool,
) -> "tuple[Ran, Mapping[str, Estimate]]":
    from editing.evaluate import evaluate
    from service.live_speaker import LiveSpeaker

    stage, policy, revision = asked
    done = 0
    with progress() as report:

        def more(n: int) -> None:
            nonlocal done
            done += n
            report(stage, done, 0)

        speaker = LiveSpeaker(*speaking, policy, revision, more)
        scores = evaluate(speaker, cases, accuracies)
    return speaker.ran, scores


def _opened(
    server: "LiveServer", tokenizer: str | None, cases: "Sequence[Case]"
) -> tuple[str, Any]:
    """Return the served model's name and a tokenizer that was compared with the server's.

    Raises:
        CommandError: There is none.
        LiveError: It is another one.
    """
    from forward.checkpoint import load_tokenizer
    from service.live_speaker import refuse_other_tokenizer

    model, folder = server.model()
    if tokenizer is None and not Path(folder).is_dir():
        raise CommandError(
            f"the server's checkpoint, {folder}, is not here: give its tokenizer with --tokenizer "
            "(a folder or a hub name)"
        )
    try:
        found = load_tokenizer(tokenizer or folder)
    except (OSError, ValueError) as error:
        raise CommandError(f"no tokenizer could be read from {tokenizer or folder}: {error}") from (
            error
        )
    prompts = [prompt for case in cases for prompt in (case.rewrite, *case.asked[:1])]
    refuse_other_tokenizer(server, model, found, prompts)
    return model, found


def notes_of(policy: Mapping[str, Any], edits: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what is to be known to read the figures.

    Args:
        policy: As the server shows it.
        edits: All edits of the server, as it lists them.
    """
    notes: list[str] = []
    merged = [edit["name"] for edit in edits if edit["serve"] == "merge"]
    if merged:
        notes.append(f"{', '.join(merged)}: merged into the weights, so in both columns")
    if policy["content"]["spec"].get("steer"):
        notes.append(
            f"'{policy['name']}' steers too: what likelihoods are taken of is part of the prompt, "
            "so only free answers show what is steered as it is generated"
        )
    return notes


def _applied(admin: EditServer, policy: str) -> dict[str, Any]:
    """Return the policy that is to be measured, as the server shows it.

    Raises:
        CommandError: It is none, or changes no answer.
    """
    if policy == NO_POLICY:
        raise CommandError("policy 'none' is the baseline: name the one to measure beside it")
    listed = admin.policy(policy, None)
    if listed["mode"] != "enforce":
        raise CommandError(
            f"policy '{policy}' is in mode {listed['mode']}, which changes no answer: evaluate it "
            "in mode enforce"
        )
    return listed


def _show(scores: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(dict(scores))
        return
    print_plain_scores(scores)
    for stage, policies in scores["policies"].items():
        print_line(f"{stage}: under {', '.join(policies) or NO_POLICY}")
    for note in scores["notes"]:
        print_line(f"note: {note}")


def _plain(scores: "Mapping[str, Estimate]") -> dict[str, Any]:
    return {metric: estimate.plain() for metric, estimate in scores.items()}
