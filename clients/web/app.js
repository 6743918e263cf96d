// The page: chooses an actor, holds one call, shows what happens. No build step, nothing fetched from elsewhere.

import { Call } from "./call.js";
import { Figures } from "./figures.js";
import { Knob } from "./knob.js";
import { openMicrophone, watchLevel } from "./microphone.js";
import { api, Problem, token } from "./server.js";
import { decode, PUSH_RATE } from "./sound.js";
import { UploadPanel } from "./upload.js";

const TRACE_POINTS = 60;
const FIGURES = { latency: ["ms", 0], slack: ["ms", 0], fps: ["", 1], late: ["%", 1], skew: ["ms", 0], network: ["ms", 0] };
const $ = (id) => document.getElementById(id);

/** The one call of this page with what belongs to it, or null. */
let live = null;
let actors = [];

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

function complain(error) {
  notice(error instanceof Problem ? error.message : `Something went wrong: ${error.message}`);
}

function figure(id, value) {
  const [unit, digits] = FIGURES[id];
  const known = Number.isFinite(value);
  $(id).textContent = known ? value.toFixed(digits).replace("-", "−") : "–";
  if (known && unit) $(id).append(Object.assign(document.createElement("small"), { textContent: unit }));
}

function trace(points) {
  const top = Math.max(400, ...points);
  const y = (value) => (23 - 22 * value / top).toFixed(1);
  const start = TRACE_POINTS - points.length;
  $("trace").firstElementChild.setAttribute("points", points.map((v, i) => `${start + i},${y(v)}`).join(" "));
}

function fileState(text) {
  $("file-state").textContent = text || "or choose one, and hear it said";
}

// ---------------------------------------------------------------- actors

function chosenActor() {
  return document.querySelector("input[name=actor]:checked")?.value;
}

function portrait(actor, className) {
  const box = Object.assign(document.createElement("span"), { className });
  box.textContent = (actor.title || actor.name).trim().slice(0, 1).toUpperCase();
  if (actor.poster) {
    const img = Object.assign(document.createElement("img"), { alt: "", onload: () => box.replaceChildren(img) });
    img.src = token ? `${actor.poster}?token=${encodeURIComponent(token)}` : actor.poster;
  }
  return box;
}

function showPortrait() {
  const actor = actors.find((a) => a.name === chosenActor());
  if (actor) $("curtain").replaceChildren(portrait(actor, "portrait"));
}

function actorCard(actor, checked) {
  const input = Object.assign(document.createElement("input"), {
    type: "radio", name: "actor", value: actor.name, checked, onchange: showPortrait, disabled: Boolean(live),
  });
  const [title, ...more] = (actor.title || actor.name).split(/[,:] /); // “Ada, an astronomer” → name and remark
  const text = document.createElement("span");
  text.append(Object.assign(document.createElement("b"), { textContent: title }));
  if (more.length) text.append(Object.assign(document.createElement("small"), { textContent: more.join(", ") }));
  const label = Object.assign(document.createElement("label"), { className: "actor" });
  label.append(input, portrait(actor, "face"), text);
  if (!actor.own) return label;
  const row = Object.assign(document.createElement("div"), { className: "own" });
  const bin = Object.assign(document.createElement("button"), {
    type: "button", className: "bin", title: `Delete ${title}`, onclick: () => askToDelete(actor, title),
  });
  bin.innerHTML = '<svg viewBox="0 0 24 24" aria-hidden="true"><path d="M5 7h14M10 7V5h4v2M7 7l1 12h8l1-12M10.500 11v5M13.500 11v5"/></svg>';
  bin.setAttribute("aria-label", `Delete ${title}`);
  row.append(label, bin);
  return row;
}

/** Show who is there. wish: the name to choose, if it is there. */
async function loadActors(wish) {
  let first, uploads;
  try {
    ({ actors, default: first, uploads } = await api("GET", "v1/actors"));
  } catch (error) {
    if (!actors.length) $("actors-empty").textContent = "No actors to show.";
    complain(error);
    return;
  }
  uploadPanel.allow(uploads);
  const list = Object.assign(document.createElement("div"), { className: "actors", id: "actor-list" });
  const chosen = [wish, chosenActor(), first, actors[0]?.name].find((name) => actors.some((a) => a.name === name));
  list.append(...actors.map((actor) => actorCard(actor, actor.name === chosen)));
  ($("actor-list") ?? $("actors-empty")).replaceWith(list);
  list.querySelector(":checked")?.scrollIntoView({ block: "nearest", inline: "center" });
  showPortrait();
}

// ---------------------------------------------------------------- actors of one's own

const uploadPanel = new UploadPanel({
  taken: () => actors.map((actor) => actor.name),
  added: async (name, title) => {
    await loadActors(live ? undefined : name);
    const called = title.split(/[,:] /)[0] || name;
    uploadPanel.done(`${called} is ready: ${live ? "stop this call, and choose the new actor" : "press Start and talk"}.`);
  },
});

function askToDelete(actor, title) {
  const dialog = $("delete-dialog");
  $("delete-title").textContent = `Delete ${title}?`;
  dialog.returnValue = "keep";
  dialog.onclose = async () => {
    if (dialog.returnValue !== "delete") return;
    try {
      await api("DELETE", `v1/actors/${encodeURIComponent(actor.name)}`);
    } catch (error) {
      complain(error);
    }
    await loadActors();
    $("add").focus();
  };
  dialog.showModal();
}

// ---------------------------------------------------------------- the call

const knob = new Knob($("knob"), $("knob-state"), (wish) => live?.call.configure(wish));

async function start() {
  notice("");
  uploadPanel.done("");
  status("connecting", "Connecting …");
  const mine = live = { call: null, figures: null, timer: 0, stopLevel: null, trace: [], said: null };
  const lost = (text) => { stop(); status("lost", "Connection lost"); notice(text, true); };
  mine.call = new Call({ stream, connected, message, channel: controls, lost, preparing });
  controls();
  try {
    const microphone = $("use-mic").checked ? await microphoneOrNotice() : null;
    if (live !== mine) return microphone?.stop();
    await mine.call.connect(chosenActor(), microphone, knob.wish ?? {});
    if (live !== mine) return;
    if (microphone) mine.stopLevel = watchLevel(microphone, showLevel);
    mine.figures = new Figures(mine.call.peer);
    mine.timer = setInterval(() => refresh(mine), 1000);
    controls();
  } catch (error) {
    if (live !== mine) return;
    stop();
    status("idle", "Ready");
    complain(error);
  }
}

async function microphoneOrNotice() {
  try {
    return await openMicrophone({ echo: $("echo").checked, noise: $("noise").checked, gain: $("gain").checked });
  } catch (error) {
    complain(error);
    return null;
  }
}

function stop() {
  if (!live) return;
  const { call, timer, stopLevel } = live;
  live = null;
  clearInterval(timer);
  stopLevel?.();
  call.close();
  $("video").srcObject = null;
  $("frame").dataset.on = "false";
  $("unmute").hidden = true;
  for (const id of Object.keys(FIGURES)) figure(id, NaN);
  trace([]);
  fileState();
  knob.rest();
  controls();
}

function stream(media) {
  if ($("video").srcObject !== media) $("video").srcObject = media;
  play();
}

/** Play with sound; where the browser wants a click first, silently and with a button. */
function play() {
  $("video").play().then(() => { $("unmute").hidden = !$("video").muted; }, (error) => {
    if (error.name !== "NotAllowedError") return; // interrupted by a newer stream
    $("video").muted = true;
    $("unmute").hidden = false;
    $("video").play().catch(() => {});
  });
}

function preparing(done, total) {
  status("connecting", total ? `Preparing the actor, ${Math.floor(100 * done / total)} %` : "Preparing the actor …");
}

function connected() {
  status("live", "Live");
}

function message(told) {
  switch (told.type) {
    case "stats":
      if (live.figures) live.figures.server = told;
      knob.holds(told.knobs);
      break;
    case "configured":
      knob.holds(told);
      break;
    case "speech_started":
      if (!live.said) break; // an open microphone is one long utterance: nothing to tell
      live.said.started = true;
      status("speaking", "Speaking");
      break;
    case "speech_ended":
    case "interrupted":
      if (live.said?.started || (live.said && told.type === "interrupted")) {
        live.said = null;
        status("live", "Live");
        fileState(told.type === "interrupted" ? "Interrupted. Choose another one, if you like" : "");
      }
      break;
    case "error":
      if (told.code === "bad_config") {
        knob.refused();
        notice(`The server cannot do that: ${told.message}.`);
        break;
      }
      live.call.interrupt();
      notice(`The server did not take the speech: ${told.message}.`);
      break;
  }
}

async function say(file) {
  if (!file) return;
  notice("");
  try {
    const pcm = await decode(file);
    if (!live) await start();
    if (!live) return;
    live.said = { started: false };
    fileState(`Saying “${file.name}” (${(pcm.length / PUSH_RATE).toFixed(1)} s)`);
    await live.call.push(pcm, PUSH_RATE);
  } catch (error) {
    fileState();
    complain(error);
  }
}

async function refresh(mine) {
  const figures = await mine.figures.measure();
  if (live !== mine) return;
  for (const id of Object.keys(FIGURES)) figure(id, figures[id]);
  if (Number.isFinite(figures.latency)) mine.trace = [...mine.trace, figures.latency].slice(-TRACE_POINTS);
  trace(mine.trace);
  mine.call.watch(figures.packets);
}

// ---------------------------------------------------------------- wiring

function showLevel(level) {
  $("level").style.transform = `scaleX(${level.toFixed(3)})`;
}

function controls() {
  const microphone = live?.call.microphone;
  const muted = microphone ? !microphone.enabled : false;
  $("start").textContent = live ? "Stop" : "Start";
  $("start").dataset.on = String(Boolean(live));
  $("interrupt").disabled = !live?.call.canSpeak;
  $("mute").disabled = !microphone;
  $("mute").setAttribute("aria-pressed", String(muted));
  $("mute").textContent = muted ? "Microphone is off" : "Mute microphone";
  $("meter").dataset.on = String(Boolean(microphone) && !muted);
  for (const input of document.querySelectorAll("input[name=actor], details input[type=checkbox]")) input.disabled = Boolean(live);
}

function toggle() {
  if (!live) return start();
  stop();
  status("idle", "Ready");
  notice("");
}

function mute() {
  live.call.microphone.enabled = !live.call.microphone.enabled;
  controls();
}

$("start").onclick = toggle;
$("reconnect").onclick = start;
$("mute").onclick = mute;
$("interrupt").onclick = () => live?.call.interrupt();
$("unmute").onclick = () => { $("video").muted = false; play(); };
$("video").onplaying = () => { $("frame").dataset.on = String(Boolean(live)); };
$("file").onchange = () => { say($("file").files[0]); $("file").value = ""; };
addEventListener("dragover", (event) => { event.preventDefault(); $("drop").dataset.over = "true"; });
addEventListener("dragleave", (event) => { if (!event.relatedTarget) $("drop").dataset.over = "false"; });
addEventListener("drop", (event) => {
  event.preventDefault();
  for (const zone of ["drop", "film-drop"]) $(zone).dataset.over = "false";
  const file = event.dataTransfer.files[0];
  const isFilm = event.target.closest?.("#upload") || /^(video\/(?!webm)|image\/|application\/(x-)?zip)/.test(file?.type);
  if (isFilm) uploadPanel.choose(file);
  else say(file);
});
addEventListener("pagehide", () => live?.call.close());
loadActors();
