// What the page asks the server for over HTTP, with errors a person understands.

export const CONNECT_MS = 15000;
export const token = new URLSearchParams(location.search).get("token");
const headers = { "Content-Type": "application/json", ...(token && { Authorization: `Bearer ${token}` }) };

/** An error whose message is meant for the person in front of the page; code: the server's word for it. */
export class Problem extends Error {
  constructor(message, code, details) {
    super(message);
    this.code = code;
    this.details = details; // the server's error object
  }
}

/** One JSON request; throws Problem. */
export async function api(method, path, body) {
  let response;
  try {
    response = await fetch(path, {
      method, headers, body: body && JSON.stringify(body), signal: AbortSignal.timeout(CONNECT_MS),
    });
  } catch {
    throw new Problem("The server cannot be reached. Is it still running?");
  }
  const reply = await response.json().catch(() => ({}));
  if (response.ok) return reply;
  throw refusal(response.status, reply.error, response.headers.get("Retry-After"));
}

/** A refused request as a Problem. error: the server's {code, message}, or undefined. */
export function refusal(status, error, retryAfter) {
  const { code, message } = error ?? {};
  if (code === "too_many_sessions") {
    const when = retryAfter ? `in ${retryAfter} seconds` : "soon";
    return new Problem(`All places on this server are taken. Please try again ${when}.`, code);
  }
  if (status === 401) {
    return new Problem("This server asks for a token: open the page with ?token=… at the end of its address.", code);
  }
  return new Problem(message ? `The server said no: ${message}.` : `The server said no (${code ?? status}).`, code, error);
}

/** Free the server's place, even while the page closes. */
export function leave(sessionId) {
  fetch(`v1/sessions/${sessionId}`, { method: "DELETE", headers, keepalive: true }).catch(() => {});
}

/**
 * Upload an actor. told.sent(share 0..1) while the file goes out, then told.stage({ stage, done, total }).
 * Returns { ready: Promise of the actor's name (throws Problem), cancel() }.
 */
export function upload(form, told) {
  const request = new XMLHttpRequest(); // fetch does not tell how much has been sent
  let read = 0;
  const freshLines = () => {
    const end = request.responseText.lastIndexOf("\n") + 1;
    const lines = request.responseText.slice(read, end).split("\n").filter(Boolean);
    read = end;
    return lines.map((line) => JSON.parse(line));
  };
  let last = {};
  const listen = () => {
    if (request.status !== 200) return;
    for (const line of freshLines()) {
      last = line;
      if (line.stage) told.stage(line);
    }
  };
  const ready = new Promise((resolve, reject) => {
    request.upload.onprogress = (event) => told.sent(event.lengthComputable ? event.loaded / event.total : NaN);
    request.onprogress = listen;
    request.onabort = () => reject(new Problem("Cancelled.", "cancelled"));
    request.onerror = () => reject(new Problem("The server cannot be reached, or it stopped in the middle."));
    request.onload = () => {
      if (request.status === 200) {
        listen();
        if (last.ready) resolve(last.ready);
        else reject(refusal(422, last.error));
        return;
      }
      let error;
      try {
        ({ error } = JSON.parse(request.responseText));
      } catch { /* no JSON: the status has to do */ }
      reject(refusal(request.status, error));
    };
  });
  request.open("POST", "v1/actors");
  request.setRequestHeader("Accept", "application/x-ndjson");
  if (token) request.setRequestHeader("Authorization", `Bearer ${token}`);
  request.send(form);
  return { ready, cancel: () => request.abort() };
}
