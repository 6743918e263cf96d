// The page: one call to a mytalk server. No build step, nothing fetched from elsewhere.

const PUSH_RATE = 24000; // Hz of a pushed sound file
const CHUNK_BYTES = 16384; // a data channel message that every browser can send
const BUFFERED_BYTES = 4 * CHUNK_BYTES; // wait above this, so that Interrupt is not stuck behind a long file
const MAX_FILE_S = 1800;
const CONNECT_MS = 15000;
const STALL_MS = 4000; // no new picture for this long: the connection is lost
const TRACE_POINTS = 60;

const $ = (id) => document.getElementById(id);
const token = new URLSearchParams(location.search).get("token");
const headers = { "Content-Type": "application/json", ...(token && { Authorization: `Bearer ${token}` }) };

/** The one call of this page, or null. */
let call = null;
let actors = [];

class Problem extends Error {}

// ---------------------------------------------------------------- saying things

function status(state, text) {
  $("status").dataset.state = state;
  $("status").textContent = text;
}

function notice(text, canReconnect = false) {
  $("notice").hidden = !text;
  $("notice-text").textContent = text;
  $("reconnect").hidden = !canReconnect;
}

function figure(id, value, unit = "", digits = 0) {
  const shown = Number.isFinite(value);
  $(id).textContent = shown ? value.toFixed(digits) : "–";
  if (shown && unit) {
    const small = document.createElement("small");
    small.textContent = unit;
    $(id).append(small);
  }
}

// ---------------------------------------------------------------- server

async function api(method, path, body) {
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
    throw new Problem(`All places on this server are taken. Please try again${wait ? ` in ${wait} s` : " soon"}.`);
  }
  if (response.status === 401 || response.status === 403) {
    throw new Problem("This server asks for a token: open the page with ?token=… in its address.");
  }
  throw new Problem(message ? `The server said no: ${message}` : `The server said no (${code ?? response.status}).`);
}

// ---------------------------------------------------------------- actors

function face(actor, className) {
  const box = document.createElement("span");
  box.className = className;
  box.textContent = (actor.title || actor.name).trim().slice(0, 1).toUpperCase();
  if (actor.poster) {
    const img = document.createElement("img");
    img.alt = "";
    img.onload = () => box.replaceChildren(img);
    img.src = token ? `${actor.poster}?token=${encodeURIComponent(token)}` : actor.poster;
  }
  return box;
}

function chosenActor() {
  return document.querySelector("input[name=actor]:checked")?.value;
}

function showPortrait() {
  const actor = actors.find((a) => a.name === chosenActor());
  if (!actor) return;
  const portrait = face(actor, "portrait");
  portrait.id = "portrait";
  $("portrait").replaceWith(portrait);
}

async function loadActors() {
  try {
    ({ actors } = await api("GET", "v1/actors"));
  } catch (error) {
    $("actors-empty").textContent = "No actors to show.";
    notice(error.message, false);
    return;
  }
  const list = document.createElement("div");
  list.className = "actors";
  for (const [i, actor] of actors.entries()) {
    const label = document.createElement("label");
    label.className = "actor";
    const input = Object.assign(document.createElement("input"), {
      type: "radio", name: "actor", value: actor.name, checked: i === 0, onchange: showPortrait,
    });
    const text = document.createElement("span");
    const title = document.createElement("b");
    title.textContent = actor.title || actor.name;
    const small = document.createElement("small");
    small.textContent = actor.description ?? (actor.title && actor.title !== actor.name ? actor.name : "");
    text.append(title, small);
    label.append(input, face(actor, "face"), text);
    list.append(label);
  }
  $("actors-empty").replaceWith(list);
  showPortrait();
}

// ---------------------------------------------------------------- microphone

function microphoneProblem(error) {
  switch (error?.name) {
    case "NotAllowedError":
    case "SecurityError":
      return "The microphone was not allowed. Allow it in the browser's address bar and start again, or drop in a sound file.";
    case "NotFoundError":
    case "OverconstrainedError":
      return "No microphone was found. You can still drop in a sound file.";
    case "NotReadableError":
      return "The microphone is used by another program. You can still drop in a sound file.";
    default:
      return `The microphone cannot be used (${error?.message ?? "unknown reason"}). You can still drop in a sound file.`;
  }
}

/** The microphone's track, or null with a notice that says why there is none. */
async function openMicrophone() {
  if (!$("use-mic").checked) return null;
  if (!navigator.mediaDevices?.getUserMedia) {
    notice("Browsers allow the microphone only over https (or on localhost). Start the server with --cert-file and "
      + "--key-file and open its https address. You can still drop in a sound file.");
    return null;
  }
  try {
    const stream = await navigator.mediaDevices.getUserMedia({
      audio: {
        echoCancellation: $("echo").checked, noiseSuppression: $("noise").checked,
        autoGainControl: $("gain").checked, channelCount: 1,
      },
    });
    return stream.getAudioTracks()[0];
  } catch (error) {
    notice(microphoneProblem(error));
    return null;
  }
}

function showLevel(current) {
  const context = new AudioContext();
  const analyser = Object.assign(context.createAnalyser(), { fftSize: 1024 });
  context.createMediaStreamSource(new MediaStream([current.microphone])).connect(analyser);
  const samples = new Float32Array(analyser.fftSize);
  current.meter = context;
  const draw = () => {
    if (call !== current) return;
    analyser.getFloatTimeDomainData(samples);
    const power = samples.reduce((sum, x) => sum + x * x, 0) / samples.length;
    const level = Math.min(1, Math.max(0, 1 + Math.log10(power + 1e-9) / 5)); // 50 dB from end to end
    $("level").style.transform = `scaleX(${level.toFixed(3)})`;
    requestAnimationFrame(draw);
  };
  draw();
}

// ---------------------------------------------------------------- the call

async function start() {
  notice("");
  status("connecting", "Connecting …");
  const current = { peer: null, id: null, microphone: null, channel: null, stats: {}, before: null, trace: [], timer: 0,
    lastPicture: performance.now(), pictures: 0, pushing: null, meter: null, lostTimer: 0 };
  call = current;
  controls();
  try {
    current.microphone = await openMicrophone();
    if (call !== current) return current.microphone?.stop();
    await connect(current);
    if (call !== current) return;
    if (current.microphone) showLevel(current);
    current.timer = setInterval(() => measure(current), 1000);
    controls();
  } catch (error) {
    if (call !== current) return;
    hangUp();
    status("idle", "Ready");
    notice(error instanceof Problem ? error.message : `The call failed: ${error.message}`);
  }
}

async function connect(current) {
  const peer = current.peer = new RTCPeerConnection({ iceServers: [], bundlePolicy: "max-bundle" });
  current.channel = peer.createDataChannel("speech");
  current.channel.binaryType = "arraybuffer";
  current.channel.bufferedAmountLowThreshold = BUFFERED_BYTES / 2;
  current.channel.onmessage = (event) => heard(current, event.data);
  current.channel.onopen = controls;
  peer.addTransceiver(current.microphone ?? "audio", { direction: current.microphone ? "sendrecv" : "recvonly" });
  peer.addTransceiver("video", { direction: "recvonly" });
  const stream = new MediaStream();
  peer.ontrack = ({ track, streams }) => {
    // the server's own stream, where there is one, makes the browser align picture and sound
    if (streams[0]) $("video").srcObject = streams[0];
    else { stream.addTrack(track); $("video").srcObject = stream; }
    play();
  };
  peer.onconnectionstatechange = () => connectionChanged(current);
  await peer.setLocalDescription();
  // sent at once: the server finds our address by our first packet, gathering would only cost time
  const { sdp, type } = peer.localDescription;
  const answer = await api("POST", "offer", { sdp, type, actor: chosenActor() });
  current.id = answer.session_id;
  if (call !== current) return release(current);
  await peer.setRemoteDescription({ sdp: answer.sdp, type: answer.type });
}

function play() {
  $("video").play().then(() => { $("unmute").hidden = true; }, () => {
    $("video").muted = true;
    $("video").play().catch(() => {});
    $("unmute").hidden = false;
  });
}

function connectionChanged(current) {
  if (call !== current) return;
  clearTimeout(current.lostTimer);
  const state = current.peer.connectionState;
  if (state === "connected") status("live", "Live");
  else if (state === "failed") lost(current);
  else if (state === "disconnected") current.lostTimer = setTimeout(() => lost(current), 3000);
}

function lost(current) {
  if (call !== current) return;
  hangUp();
  status("lost", "Connection lost");
  notice("The connection to the server was lost.", true);
}

/** Give back everything a call holds; safe to call twice. */
function release(current) {
  clearInterval(current.timer);
  clearTimeout(current.lostTimer);
  current.microphone?.stop();
  current.meter?.close().catch(() => {});
  current.meter = null;
  current.peer?.close();
  if (current.id) fetch(`v1/sessions/${current.id}`, { method: "DELETE", headers, keepalive: true }).catch(() => {});
  current.id = null;
}

function hangUp() {
  if (!call) return;
  const current = call;
  call = null;
  release(current);
  $("video").srcObject = null;
  $("frame").dataset.on = "false";
  $("unmute").hidden = true;
  $("level").style.transform = "scaleX(0)";
  for (const id of ["latency", "slack", "fps", "late", "skew", "network"]) figure(id, NaN);
  $("trace").firstElementChild.setAttribute("points", "");
  fileState();
  controls();
}

function controls() {
  $("start").textContent = call ? "Stop" : "Start";
  $("start").dataset.on = String(Boolean(call));
  $("interrupt").disabled = call?.channel?.readyState !== "open";
  $("mute").disabled = !call?.microphone;
  const muted = call?.microphone ? !call.microphone.enabled : false;
  $("mute").setAttribute("aria-pressed", String(muted));
  $("mute").textContent = muted ? "Microphone muted" : "Mute microphone";
  for (const input of document.querySelectorAll("#actors input, details input")) input.disabled = Boolean(call);
}

// ---------------------------------------------------------------- server messages

function heard(current, data) {
  if (call !== current || typeof data !== "string") return;
  const message = JSON.parse(data);
  switch (message.type) {
    case "stats": current.stats = message; break;
    case "speech_started": status("speaking", "Speaking"); break;
    case "speech_ended": case "interrupted":
      status("live", "Live");
      if (current.pushing === "sent") finishFile(current, message.type === "interrupted" ? "Interrupted." : "");
      break;
    case "error": notice(message.message ?? message.error?.message ?? "The server reported an error."); break;
  }
}

function interrupt() {
  if (call?.channel?.readyState !== "open") return;
  call.channel.send(JSON.stringify({ type: "interrupt" }));
  if (call.pushing) finishFile(call, "Interrupted.");
}

// ---------------------------------------------------------------- a sound file

function fileState(text) {
  $("file-state").textContent = text || "or choose one: the actor says it at once";
}

/** Any sound file → Int16Array, mono, PUSH_RATE. */
async function decode(file) {
  let buffer;
  try {
    // an offline context decodes and resamples to its own rate
    buffer = await new OfflineAudioContext(1, 1, PUSH_RATE).decodeAudioData(await file.arrayBuffer());
  } catch {
    throw new Problem(`“${file.name}” cannot be decoded. Try a WAV, MP3, OGG or FLAC file.`);
  }
  if (!buffer.length) throw new Problem(`“${file.name}” is empty.`);
  if (buffer.duration > MAX_FILE_S) throw new Problem("That file is longer than half an hour.");
  const channels = Array.from({ length: buffer.numberOfChannels }, (_, c) => buffer.getChannelData(c));
  return Int16Array.from({ length: buffer.length }, (_, i) => {
    const mean = channels.reduce((sum, channel) => sum + channel[i], 0) / channels.length;
    return Math.round(Math.max(-1, Math.min(1, mean)) * 32767);
  });
}

async function say(file) {
  if (!file) return;
  notice("");
  try {
    const pcm = await decode(file);
    if (!call) await start();
    if (!call) return;
    await push(call, pcm, file.name);
  } catch (error) {
    fileState();
    notice(error instanceof Problem ? error.message : `The file could not be sent: ${error.message}`);
  }
}

async function push(current, pcm, name) {
  await opened(current);
  if (current.pushing) current.channel.send(JSON.stringify({ type: "interrupt" }));
  const mine = current.pushing = Symbol(name);
  // the actor has one voice: while the file speaks, the microphone is silent
  if (current.microphone) { current.unmuteAfter = current.microphone.enabled; current.microphone.enabled = false; }
  controls();
  fileState(`Saying “${name}” (${(pcm.length / PUSH_RATE).toFixed(1)} s)`);
  current.channel.send(JSON.stringify({ type: "start", rate: PUSH_RATE }));
  const bytes = new Uint8Array(pcm.buffer); // little endian, as every browser's machine is
  for (let at = 0; at < bytes.length; at += CHUNK_BYTES) {
    while (current.channel.bufferedAmount > BUFFERED_BYTES) await drained(current.channel);
    if (call !== current || current.pushing !== mine) return;
    current.channel.send(bytes.subarray(at, at + CHUNK_BYTES));
  }
  current.channel.send(JSON.stringify({ type: "end" }));
  current.pushing = "sent";
}

function finishFile(current, text) {
  current.pushing = null;
  if (current.microphone && current.unmuteAfter) current.microphone.enabled = true;
  fileState(text);
  controls();
}

function drained(channel) {
  return new Promise((resolve) => {
    channel.addEventListener("bufferedamountlow", resolve, { once: true });
    setTimeout(resolve, 250);
  });
}

async function opened(current) {
  const deadline = performance.now() + CONNECT_MS;
  while (current.channel.readyState !== "open") {
    if (call !== current) throw new Problem("The call ended before the file was sent.");
    if (performance.now() > deadline) throw new Problem("The connection to the server did not open.");
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

// ---------------------------------------------------------------- figures

async function measure(current) {
  const report = [...(await current.peer.getStats()).values()];
  if (call !== current) return;
  const inbound = (kind) => report.find((s) => s.type === "inbound-rtp" && s.kind === kind) ?? {};
  const video = inbound("video"), audio = inbound("audio");
  const pair = report.find((s) => s.type === "candidate-pair" && s.nominated && s.state === "succeeded");
  const rtt = pair?.currentRoundTripTime * 1000;
  const before = current.before ?? video;
  const seconds = (video.timestamp - before.timestamp) / 1000;
  const emitted = video.jitterBufferEmittedCount - before.jitterBufferEmittedCount;
  const buffer = emitted ? 1000 * (video.jitterBufferDelay - before.jitterBufferDelay) / emitted : 0;
  figure("fps", seconds > 0 ? (video.framesDecoded - before.framesDecoded) / seconds : NaN, "", 1);
  current.before = video;
  watchPictures(current, video.packetsReceived ?? 0);
  // both say which moment of the sender's clock is playing now, each as of its own time stamp
  const skew = (audio.estimatedPlayoutTimestamp - audio.timestamp) - (video.estimatedPlayoutTimestamp - video.timestamp);
  figure("skew", skew, "ms");
  figure("network", rtt, "ms", rtt < 10 ? 1 : 0);
  const { latency_ms, slack_ms, late_pct } = current.stats;
  const latency = Number.isFinite(latency_ms) ? latency_ms + buffer + (Number.isFinite(rtt) ? rtt : 0) : NaN;
  figure("latency", latency, "ms");
  figure("slack", slack_ms, "ms");
  figure("late", late_pct, "%", late_pct > 0 ? 1 : 0);
  trace(current, latency);
}

function watchPictures(current, pictures) {
  const now = performance.now();
  if (document.hidden || pictures > current.pictures) {
    current.pictures = pictures;
    current.lastPicture = now;
  } else if (now - current.lastPicture > STALL_MS && current.pictures) {
    lost(current);
  } else if (now - current.lastPicture > CONNECT_MS) {
    hangUp();
    status("idle", "Ready");
    notice("The server answered, but no picture arrived: the network may block the connection (UDP).", true);
  }
}

function trace(current, latency) {
  if (!Number.isFinite(latency)) return;
  current.trace = [...current.trace, latency].slice(-TRACE_POINTS);
  const top = Math.max(400, ...current.trace);
  const points = current.trace.map((value, i) => `${TRACE_POINTS - current.trace.length + i},${(23 - 22 * value / top).toFixed(1)}`);
  $("trace").firstElementChild.setAttribute("points", points.join(" "));
}

// ---------------------------------------------------------------- wiring

$("start").onclick = () => {
  if (!call) return start();
  hangUp();
  status("idle", "Ready");
  notice("");
};
$("interrupt").onclick = interrupt;
$("reconnect").onclick = start;
$("mute").onclick = () => {
  call.microphone.enabled = !call.microphone.enabled;
  call.unmuteAfter = call.microphone.enabled;
  controls();
};
$("unmute").onclick = () => { $("video").muted = false; play(); };
$("video").onplaying = () => { $("frame").dataset.on = "true"; };
$("file").onchange = () => { say($("file").files[0]); $("file").value = ""; };
addEventListener("dragover", (event) => { event.preventDefault(); $("drop").dataset.over = "true"; });
addEventListener("dragleave", (event) => { if (!event.relatedTarget) $("drop").dataset.over = "false"; });
addEventListener("drop", (event) => {
  event.preventDefault();
  $("drop").dataset.over = "false";
  say(event.dataTransfer.files[0]);
});
addEventListener("pagehide", () => { if (call) release(call); });
loadActors();
