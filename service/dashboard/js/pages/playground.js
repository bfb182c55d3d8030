// One question under two policies, side by side, as the answers stream, with the scores of what watched them.

import { get, infer, tokenize } from "../api.js";
import { badge, h, notice, number, put, row, table } from "../dom.js";
import { figure, rarity } from "../format.js";
import { heatMap } from "../heat.js";

export async function render({ section, signal }) {
  const [status, { policies }] = await Promise.all([get("status"), get("policies")]);
  const served = status.served_names[0];
  const names = ["none", ...policies.filter((policy) => policy.selectable && policy.mode !== "off").map((policy) => policy.name)];
  const question = h("textarea", { id: "question", rows: 3, placeholder: "What do you want to ask?" });
  const sides = [side("Left", names, names[0]), side("Right", names, names[1] ?? names[0])];
  const ask = h("button", { type: "submit" }, "Ask both");
  const stop = h("button", { type: "button", class: "plain", disabled: true, onclick: () => running?.abort() }, "Stop");
  const form = h("form", {}, h("label", { for: "question" }, "Question"), question, h("div", { class: "bar" }, ask, stop));
  let running = null;
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    start();
  });
  signal.addEventListener("abort", () => running?.abort());
  put(section, h("h1", {}, "Playground"), h("p", { class: "muted" }, "The binding of your key decides what you may choose; what is mandatory applies to both sides."), form, h("div", { class: "columns" }, sides.map((one) => one.element)));

  async function start() {
    if (!question.value.trim()) {
      question.focus();
      return;
    }
    running?.abort();
    running = new AbortController();
    const mine = running;
    ask.disabled = true;
    stop.disabled = false;
    await Promise.all(sides.map((one) => one.run(served, question.value, mine.signal)));
    ask.disabled = false;
    stop.disabled = true;
  }
}

function side(label, names, chosen) {
  const policy = h("select", {}, names.map((name) => h("option", { value: name, selected: name === chosen }, name)));
  const answer = h("div", { class: "answer", role: "status", "aria-label": `${label} answer` });
  const found = h("div", {});
  const element = h("section", { "data-side": label.toLowerCase() }, h("h2", {}, `${label} `), h("div", { class: "bar" }, h("label", {}, "Policy", policy)), answer, found);

  async function run(model, question, signal) {
    answer.textContent = "";
    put(found);
    const messages = [{ role: "user", content: question }];
    const body = { model, messages, stream: true, logprobs: true, temperature: 0, max_tokens: 256, policy: policy.value, trimtab: { scores: true } };
    try {
      const said = { tokens: [], object: null, finish: null };
      for await (const chunk of chunks(await infer("chat/completions", body, signal))) {
        take(chunk, said);
      }
      if (said.object) {
        put(found, await shown(said, model, messages));
      }
    } catch (error) {
      if (!signal.aborted) {
        put(found, notice(error.message, "bad"));
      }
    }
  }

  function take(chunk, said) {
    const choice = chunk.choices?.[0];
    const text = choice?.delta?.content ?? "";
    answer.append(text);
    said.tokens.push(...spaced(text, (choice?.logprobs?.content ?? []).map((one) => one.token)));
    said.finish = choice?.finish_reason ?? said.finish;
    said.object = chunk.trimtab ?? said.object;
  }

  return { element, run };
}

// Log-probabilities tell tokens without the spaces before them; the text has them.
function spaced(text, tokens) {
  let rest = text;
  return tokens.map((token) => {
    const bare = token.trim();
    const end = bare ? rest.indexOf(bare) + bare.length : 0;
    const piece = rest.includes(bare) && end ? rest.slice(0, end) : token;
    rest = rest.slice(piece === token && !rest.startsWith(token) ? 0 : piece.length);
    return piece;
  });
}

async function* chunks(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    rest += value ?? "";
    const events = rest.split("\n\n");
    rest = done ? "" : events.pop();
    for (const event of events) {
      const data = event.split("\n").filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trim()).join("\n");
      if (data && data !== "[DONE]") {
        yield JSON.parse(data);
      }
    }
    if (done) {
      return;
    }
  }
}

async function shown(said, model, messages) {
  const { verdicts, scores, policy } = said.object;
  const rows = Object.entries(verdicts).map(([name, verdict]) => row(name, badge(verdict.mode, verdict.mode), verdict.fired ? badge("fired", "fault") : "quiet", verdict.action, number(figure(verdict.score, 4)), number(figure(verdict.threshold, 4)), number(rarity(verdict.rarity))));
  const trace = await traceOf(said, scores, verdicts, model, messages);
  return [
    h("p", { class: "muted" }, `Under ${policy.join(", ") || "no policy"}; finished by ${said.finish ?? "nothing"}.`),
    rows.length ? table("Verdicts", ["Monitor", "Mode", "Found", "Done", { label: "Score", number: true }, { label: "Threshold", number: true }, { label: "Rarity", number: true }], rows) : null,
    trace ? heatMap(trace, Object.keys(trace.scores).find((name) => verdicts[name]?.fired) ?? Object.keys(trace.scores)[0], null) : null,
  ];
}

// The object has a monitor's scores in the order of its tokens; where they stand is told by what it reads.
async function traceOf(said, scores, verdicts, model, messages) {
  const names = Object.keys(scores).filter((name) => scores[name].length);
  if (!names.length) {
    return null;
  }
  const [prompt, { monitors }] = await Promise.all([promptTokens(model, messages), get("monitors")]);
  const reads = Object.fromEntries(monitors.map((monitor) => [monitor.name, monitor.tokens]));
  const tokens = [...prompt, ...said.tokens];
  const laid = Object.fromEntries(names.map((name) => [name, laidOut(scores[name], firstOf(reads[name.split("/").at(-1)], prompt.length), tokens.length)]));
  const thresholds = Object.fromEntries(names.map((name) => [name, verdicts[name]?.threshold ?? null]));
  return { first: 0, prompt_length: prompt.length, tokens, scores: laid, thresholds };
}

function firstOf(clause, promptLength) {
  const from = /^from: ?(\d+)|\{from: ?(\d+)\}/.exec(clause ?? "");
  return clause === "last_prompt" ? promptLength - 1 : clause === "generation" ? promptLength : from ? promptLength + Number(from[1] ?? from[2]) : 0;
}

function laidOut(values, first, length) {
  return Array.from({ length }, (_, place) => values[place - first] ?? null);
}

async function promptTokens(model, messages) {
  const answer = await tokenize({ model, messages, add_generation_prompt: true, return_token_strs: true }).then((found) => found.json(), () => null);
  return (answer?.token_strs ?? []).map((token) => token.replaceAll("Ġ", " ").replaceAll("Ċ", "\n").replaceAll("▁", " "));
}
