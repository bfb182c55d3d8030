// Sends the key once, and goes on to the page that was asked for with the cookie that it is given.

const form = document.getElementById("form");
const key = document.getElementById("key");
const error = document.getElementById("error");

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  error.textContent = "";
  const answer = await ask().catch(() => null);
  if (answer?.ok) {
    location.replace(new URL(`./${location.hash}`, location.href));
    return;
  }
  const body = await answer?.json().catch(() => null);
  error.textContent = body?.error?.message ?? "The server does not answer.";
  key.select();
});

function ask() {
  return fetch(new URL("../trimtab/v1/session", location.href), {
    method: "POST",
    headers: { authorization: `Bearer ${key.value.trim()}`, "x-trimtab-session": "1" },
  });
}

key.focus();
