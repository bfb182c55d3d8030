// Numbers and times as people read them.

const ROLES = ["infer", "viewer", "operator", "author", "admin"];

export function may(who, least) {
  return ROLES.indexOf(who.role) >= ROLES.indexOf(least);
}

export function figure(value, digits = 3) {
  if (value === null || value === undefined) {
    return "–";
  }
  return Math.abs(value) >= 1e4 || (value !== 0 && Math.abs(value) < 1e-3) ? value.toExponential(2) : String(Number(value.toPrecision(digits)));
}

export function share(value) {
  return value === null || value === undefined ? "–" : `${Number((100 * value).toPrecision(3))} %`;
}

export function count(value) {
  return value === null || value === undefined ? "–" : value.toLocaleString("en");
}

const CLOCK = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const DAY = new Intl.DateTimeFormat(undefined, { year: "numeric", month: "short", day: "2-digit" });

export function clock(at) {
  return at ? CLOCK.format(new Date(at)) : "–";
}

export function moment(at) {
  return at ? `${DAY.format(new Date(at))}, ${CLOCK.format(new Date(at))}` : "–";
}

export function age(seconds) {
  const [amount, unit] = seconds < 120 ? [seconds, "s"] : seconds < 7200 ? [seconds / 60, "min"] : seconds < 172800 ? [seconds / 3600, "h"] : [seconds / 86400, "days"];
  return `${Math.round(amount)} ${unit}`;
}

export function rarity(value) {
  return value === null || value === undefined ? "–" : `1 in ${count(Math.round(10 ** value))}`;
}
