// Asks the server. Whoever has no session any more is sent to log in.

const OPERATIONS = new URL("../trimtab/v1/", document.baseURI);
const INFERENCE = new URL("../v1/", document.baseURI);
const MARK = { "x-trimtab-session": "1" };

export class ApiError extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

export function address(path, query = {}) {
  const url = new URL(path, OPERATIONS);
  Object.entries(query).forEach(([name, value]) => value !== undefined && value !== "" && url.searchParams.set(name, value));
  return url;
}

export async function get(path, query) {
  return (await asked(address(path, query), { headers: MARK })).json();
}

export async function send(method, path, body, headers = {}) {
  const sent = body === undefined ? {} : { body: JSON.stringify(body) };
  const answer = await asked(address(path), { method, headers: { ...MARK, "content-type": "application/json", ...headers }, ...sent });
  return answer.status === 204 ? null : answer.json();
}

export function infer(path, body, signal) {
  const headers = { ...MARK, "content-type": "application/json" };
  return asked(new URL(path, INFERENCE), { method: "POST", headers, body: JSON.stringify(body), signal });
}

export function tokenize(body) {
  const headers = { ...MARK, "content-type": "application/json" };
  return asked(new URL("../tokenize", INFERENCE), { method: "POST", headers, body: JSON.stringify(body) });
}

async function asked(url, options) {
  const answer = await fetch(url, options);
  if (answer.ok) {
    return answer;
  }
  const body = await answer.json().catch(() => null);
  const found = new ApiError(answer.status, body?.error?.code ?? "unknown", body?.error?.message ?? `the server answered ${answer.status}`);
  if (found.status === 401) {
    toLogin();
  }
  throw found;
}

export function toLogin() {
  location.replace(new URL(`login${location.hash}`, document.baseURI));
}
