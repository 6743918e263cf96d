// What the page asks the server for over HTTP, with errors a person understands.

export const CONNECT_MS = 15000;
export const token = new URLSearchParams(location.search).get("token");
const headers = { "Content-Type": "application/json", ...(token && { Authorization: `Bearer ${token}` }) };

/** An error whose message is meant for the person in front of the page. */
export class Problem extends Error {}

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
  const { code, message } = reply.error ?? {};
  if (response.status === 503) {
    const wait = response.headers.get("Retry-After");
    throw new Problem(`All places on this server are taken. Please try again${wait ? ` in ${wait} seconds` : " soon"}.`);
  }
  if (response.status === 401 || response.status === 403) {
    throw new Problem("This server asks for a token: open the page with ?token=… at the end of its address.");
  }
  throw new Problem(message ? `The server said no: ${message}.` : `The server said no (${code ?? response.status}).`);
}

/** Free the server's place, even while the page closes. */
export function leave(sessionId) {
  fetch(`v1/sessions/${sessionId}`, { method: "DELETE", headers, keepalive: true }).catch(() => {});
}
