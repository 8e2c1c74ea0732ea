// The service's routes. Addresses are relative, so that the page also works below a proxy's path.

let key = "";

/** The key that goes with each request; empty for none. */
export function useKey(value) {
  key = value.trim();
}

/** What the service refused, in its own words. Status 0: it did not answer. */
export class ApiError extends Error {
  constructor(status, message, retryAfter = null) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

const WORDS = {
  401: "The service needs a key that it knows.",
  404: "The service does not know that any more.",
  406: "There are not enough credits for this.",
  413: "The start picture is too large for the service; use a smaller one.",
  429: "The queue is full.",
  503: "The service is not ready.",
};

async function refusal(response) {
  let text = "";
  try {
    const { error } = await response.json();
    text = typeof error === "string" ? error : (error?.message ?? "");
  } catch {
    // no JSON: the status says enough
  }
  const wait = Number(response.headers.get("retry-after")) || null;
  text ||= WORDS[response.status] ?? `The service answered with status ${response.status}.`;
  if (wait) text = `${text.replace(/\.?$/, ".")} Try again in ${wait} s.`;
  return new ApiError(response.status, text, wait);
}

async function request(path, { method = "GET", body, accept, signal } = {}) {
  const headers = {};
  if (key) headers["x-api-key"] = key;
  if (accept) headers.accept = accept;
  if (body) headers["content-type"] = "application/json";
  let response;
  try {
    const text = body && JSON.stringify(body);
    response = await fetch(path, { method, headers, body: text, signal, cache: "no-store" });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError(0, "The service does not answer. Check that it runs, then try again.");
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

const json = async (path, options) => (await request(path, options)).json();
const jobPath = (id) => `v1/jobs/${encodeURIComponent(id)}`;

export const info = () => json("v1/info");
export const submit = (body) => json("v1/jobs", { method: "POST", body });
export const job = (id) => json(jobPath(id));
export const cancel = (id) => json(jobPath(id), { method: "DELETE" });
export const credits = async () => (await json("v1/get-user-credits")).credits;
export const picture = async (url) => (await request(url)).blob();

/** Longest silence on a stream, keep-alive lines included, before it counts as broken. */
const SILENCE_MS = 60_000;

/** A job's events, `{event, data}`, until the service ends the stream or it breaks. */
export async function* events(id, signal) {
  const quiet = new AbortController();
  const either = AbortSignal.any([signal, quiet.signal]);
  const options = { accept: "text/event-stream", signal: either };
  const response = await request(`${jobPath(id)}/events`, options);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let timer = 0;
  try {
    for (;;) {
      timer = setTimeout(() => quiet.abort(), SILENCE_MS);
      const { value, done } = await reader.read();
      clearTimeout(timer);
      if (done) return;
      const parts = (rest + value).replaceAll("\r\n", "\n").split("\n\n");
      rest = parts.pop();
      for (const part of parts) {
        const event = parse(part);
        if (event) yield event;
      }
    }
  } finally {
    clearTimeout(timer);
    reader.cancel().catch(() => {}); // it may be broken already
  }
}

function parse(block) {
  let event = "message";
  const data = [];
  for (const line of block.split("\n")) {
    const colon = line.indexOf(":");
    if (colon < 1) continue; // a comment keeps the connection alive
    const value = line.slice(colon + 1).replace(/^ /, "");
    if (line.startsWith("event:")) event = value;
    if (line.startsWith("data:")) data.push(value);
  }
  return data.length ? { event, data: JSON.parse(data.join("\n")) } : null;
}
