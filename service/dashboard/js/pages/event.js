// One event: what was found, at which token, and what people say of it.

import { get, send } from "../api.js";
import { badge, h, notice, put, tiles } from "../dom.js";
import { figure, may, moment, rarity, share } from "../format.js";
import { heatMap, whereOf } from "../heat.js";
import { sides } from "../sides.js";

export async function render({ section, who, live, target }) {
  const event = await get(`events/${encodeURIComponent(target)}`);
  const said = h("div", {});
  const compared = h("div", {});
  put(
    section,
    h("p", {}, h("a", { href: "#/events" }, "Events")),
    h("h1", {}, `${event.monitor} `, badge(event.fault ? `fault: ${event.fault}` : "fired", event.fault ? "fault" : event.mode), badge(event.mode, event.mode)),
    h("p", { class: "muted" }, `Event ${event.id}, ${moment(event.at)}`),
    tiles([
      ["Score", figure(event.score, 4)],
      ["Threshold", figure(event.threshold, 4)],
      ["Rarity", rarity(event.rarity)],
      ["Done", event.action],
      ["Where", event.position === null ? "–" : whereOf(event.position, event.position - event.token)],
      ["Coverage", share(event.coverage)],
    ]),
    h("p", {}, "Under ", h("a", { href: `#/policies/${encodeURIComponent(event.policy.split("@")[0])}` }, event.policy), ", in request ", h("a", { href: `#/requests/${encodeURIComponent(event.request)}` }, h("code", {}, event.request)), event.choice ? `, choice ${event.choice}` : "", "."),
    h("h2", {}, "Was it right?"),
    said,
    h("h2", {}, "Tokens"),
    event.trace ? heatMap(event.trace, event.monitor, event.position) : notice(`Nothing of what was said is kept: policy ${event.policy} has no “capture: true”.`),
    event.trace && h("h2", {}, "Steered and unsteered"),
    event.trace && compared,
  );
  draw(event);
  compare(event);

  function compare(shown) {
    const found = shown.unsteered;
    const ask = may(who, "operator") ? h("div", { class: "bar" }, h("button", { type: "button", class: "plain", onclick: (click) => replay(click.target) }, found ? "Ask again" : "Ask under no policy")) : null;
    const told = found
      ? `Greedy, ${found.generated} tokens${found.finish === "length" ? " and cut off there" : ""}; asked by ${found.by}, ${moment(found.at)}. Where the request was sampled, a part of the difference is chance.`
      : "Nobody has asked this prompt without a policy. Doing so runs it once more, steered and watched by nothing, and keeps the answer beside the event.";
    put(compared, found && sides(shown.policy, shown.trace.answer, found.answer), h("p", { class: "muted", role: "status" }, told), ask);
  }

  async function replay(button) {
    button.disabled = true;
    try {
      compare(await send("POST", `events/${event.id}/replay`));
    } catch (error) {
      button.disabled = false;
      compared.append(notice(error.message, "bad"));
    }
  }

  function draw(shown) {
    const told = shown.label === null ? "Nobody has said yet." : `${shown.label ? "True" : "False"}, says ${shown.labelled_by}, ${moment(shown.labelled_at)}.`;
    const buttons = may(who, "operator") ? [button("True", true, shown), button("False", false, shown), shown.label === null ? null : button("Take back", null, shown)] : null;
    const use = event.trace ? "It becomes an item for the monitor's next calibration." : "Without a captured text it cannot be an item to calibrate on.";
    put(said, h("p", { role: "status" }, told), buttons && h("div", { class: "bar", role: "group", "aria-label": "Label" }, buttons), h("p", { class: "muted" }, use));
  }

  function button(text, label, shown) {
    return h("button", { type: "button", class: "plain", "aria-pressed": label === null ? null : String(shown.label === label), onclick: () => say(label) }, text);
  }

  async function say(label) {
    try {
      const now = await send("POST", `events/${event.id}/label`, { label });
      live.relabel(now);
      draw(now);
    } catch (error) {
      said.append(notice(error.message, "bad"));
    }
  }
}
