// The panel that adds an actor: a video or a ready package, a name, consent, and how far it is.

import { Problem, upload } from "./server.js";

const STAGES = {
  uploading: "Uploading",
  waiting: "Waiting for another actor to be made",
  checking: "Checking the package",
  "finding the face": "Finding the face",
  "writing the actor": "Writing the actor",
  preparing: "Preparing it to talk",
};
const CONSENT = "The uploader states: I am the person shown, or they agreed to be shown saying other words.";
const WHOSE = ["several_faces", "no_such_face"]; // the server's words for: say whose face it is
const MB = 1e6;
const $ = (id) => document.getElementById(id);

/** “Anna Lena Müller, a baker” → “anna-lena-muller”, with a number behind it where the name is taken. */
export function nameFor(title, taken) {
  const plain = title.split(/[,:] /)[0].normalize("NFKD").replace(/[^A-Za-z0-9_ -]/g, "").trim().toLowerCase();
  const base = plain.replace(/[ -]+/g, "-").replace(/^[-_]+/, "").slice(0, 60) || "actor";
  let name = base;
  for (let i = 2; taken.includes(name); i++) name = `${base}-${i}`;
  return name;
}

function explain(problem) {
  if (problem.code === "several_faces") return "Several people are in view. Say above whose face it is, and try again.";
  const told = problem.details?.message; // a sentence of the server's, without a capital and a full stop
  return told ? `${told[0].toUpperCase()}${told.slice(1)}.` : problem instanceof Problem ? problem.message : String(problem);
}

export class UploadPanel {
  /** on.taken(): names that are in use; on.added(name): an actor is ready. */
  constructor(on) {
    this.on = on;
    this.file = null;
    this.running = null;
    this.limits = {};
    this.invitation = $("film-name").textContent;
    this.hint = $("film-hint").textContent;
    $("add").onclick = () => this.open($("upload").hidden);
    $("film").onchange = () => this.choose($("film").files[0]);
    $("upload").onsubmit = (event) => {
      event.preventDefault();
      this.send();
    };
    $("upload-cancel").onclick = () => this.running?.cancel();
    for (const [type, over] of [["dragenter", true], ["dragover", true], ["dragleave", false]]) {
      $("film-drop").addEventListener(type, () => { $("film-drop").dataset.over = String(over); });
    }
  }

  /** What the server says of uploads: { why_not, why_no_video, max_bytes }. */
  allow(limits) {
    this.limits = limits;
    const why = limits.why_not ?? limits.why_no_video;
    $("why-not").textContent = why ? `${why[0].toUpperCase()}${why.slice(1)}.` : "";
    $("add").disabled = Boolean(limits.why_not);
    if (limits.why_no_video) {
      $("film").accept = ".zip";
      $("film-name").textContent = "Choose a zipped actor package";
      $("film-hint").textContent = "the folder that “mytalk actor make” wrote";
    }
    if (limits.why_not) this.open(false);
    $("why-not").hidden = !limits.why_not && !(limits.why_no_video && !$("upload").hidden);
  }

  open(yes) {
    $("upload").hidden = !yes;
    $("add").setAttribute("aria-expanded", String(yes));
    $("upload-done").hidden = true;
    $("why-not").hidden = !this.limits.why_not && !(this.limits.why_no_video && yes);
    if (yes) $("film").focus();
  }

  /** Take a file that was chosen or dropped. */
  choose(file) {
    if (!file || this.running) return;
    this.complain("");
    const limit = this.limits.max_bytes;
    if (file.size > limit) {
      this.complain(`“${file.name}” has ${Math.ceil(file.size / MB)} MB; at most ${Math.floor(limit / MB)} MB are taken.`);
      return;
    }
    this.file = file;
    this.open(true);
    $("film-name").textContent = file.name;
    $("film-hint").textContent = `${(file.size / MB).toFixed(1)} MB – click to choose another one`;
    if (!$("actor-title").value) $("actor-title").value = file.name.replace(/\.[^.]*$/, "").slice(0, 64);
    $("actor-title").focus();
    $("actor-title").select();
  }

  async send() {
    if (this.running) return;
    if (!this.file) {
      this.complain("Choose a video first.");
      $("film").focus();
      return;
    }
    const title = $("actor-title").value.trim();
    const form = new FormData();
    if (!/\.zip$/i.test(this.file.name)) form.append("name", nameFor(title, this.on.taken()));
    form.append("title", title);
    form.append("face", $("face").value);
    form.append("consent", $("consent-text").value.trim() || CONSENT);
    form.append("file", this.file); // last: the server checks the rest before it takes the file
    this.complain("");
    this.stage({ stage: "uploading", done: 0, total: 1 });
    this.running = upload(form, {
      sent: (share) => this.stage(share < 1 ? { stage: "uploading", done: share, total: 1 } : { stage: "uploading" }),
      stage: (line) => this.stage(line),
    });
    this.busy(true);
    try {
      const name = await this.running.ready;
      this.clear();
      this.on.added(name, title);
    } catch (problem) {
      if (problem.code !== "cancelled") this.complain(explain(problem));
      if (WHOSE.includes(problem.code)) this.askWhose();
    } finally {
      this.running = null;
      this.busy(false);
    }
  }

  askWhose() {
    $("face-field").hidden = false;
    if ($("face").value === "only") $("face").value = "largest";
  }

  stage({ stage, done = 0, total = 0 }) {
    const text = STAGES[stage] ?? stage;
    if ($("upload-stage").textContent !== text) $("upload-stage").textContent = text; // read out once a stage
    $("upload-share").textContent = total ? `${Math.floor(100 * done / total)} %` : "";
    if (total) $("upload-bar").value = done / total;
    else $("upload-bar").removeAttribute("value"); // moves to and fro
  }

  busy(yes) {
    $("upload-progress").hidden = !yes;
    $("upload-cancel").hidden = !yes;
    $("upload-go").hidden = yes;
    $("upload").setAttribute("aria-busy", String(yes));
    for (const input of $("upload").querySelectorAll("input, select")) input.disabled = yes;
    if (yes) $("upload-cancel").focus();
    else if (!$("upload").hidden) $("upload-go").focus();
  }

  complain(text) {
    $("upload-error").textContent = text;
    $("upload-error").hidden = !text;
    if (text && $("upload").hidden) this.open(true);
  }

  clear() {
    this.file = null;
    $("upload").reset();
    this.open(false);
    $("film-name").textContent = this.invitation;
    $("film-hint").textContent = this.hint;
    $("face-field").hidden = true;
    this.allow(this.limits);
    $("add").focus();
  }

  /** Say in the panel that an actor is there; nothing: no more. */
  done(text) {
    $("upload-done").textContent = text;
    $("upload-done").hidden = !text;
  }
}
