// One call: a peer connection with the actor's picture and sound, the microphone, and the speech channel.

import { api, CONNECT_MS, leave, Problem } from "./server.js";

const STALL_MS = 4000; // no new picture for this long: the connection is lost
// The sound waits 40 to 80 ms for the network's jitter, the picture 8. A browser learns that it must hold the picture
// back, but takes ten seconds and more for it; told from the start, both are in step with the first word.
const PICTURE_BUFFER_MS = 60;
const ASK_AGAIN_MS = 1000; // while the actor is being prepared
const CHUNK_BYTES = 16384; // a data channel message that every browser can send
const BUFFERED_BYTES = 4 * CHUNK_BYTES; // wait above this, so that Interrupt is not stuck behind a long file
const AHEAD_S = 60; // the server holds two minutes of unplayed speech

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/**
 * on.stream(MediaStream), on.connected(), on.message(object), on.channel(), on.lost(text), on.preparing(done, total)
 * are called while the call lives, never after close().
 */
export class Call {
  constructor(on) {
    this.on = on;
    this.microphone = null; // the track that is sent, or null
    this.closed = false;
    this.sessionId = null;
    this.pushing = null; // the push that is being sent
    this.received = { packets: 0, at: performance.now() };
  }

  get canSpeak() {
    return this.channel?.readyState === "open";
  }

  /** Offer, answer, done; media comes by itself. knobs: {hop, lookahead} to ask for, or {}. Throws Problem. */
  async connect(actor, microphone, knobs) {
    this.microphone = microphone;
    const peer = this.peer = new RTCPeerConnection({ iceServers: [], bundlePolicy: "max-bundle" });
    this.channel = peer.createDataChannel("speech");
    this.channel.bufferedAmountLowThreshold = BUFFERED_BYTES / 2;
    this.channel.onopen = () => this.tell("channel");
    this.channel.onmessage = ({ data }) => this.heard(data);
    peer.addTransceiver(microphone ?? "audio", { direction: microphone ? "sendrecv" : "recvonly" });
    peer.addTransceiver("video", { direction: "recvonly" });
    const both = new MediaStream();
    peer.ontrack = ({ track, streams, receiver }) => {
      if (track.kind === "video" && "jitterBufferTarget" in receiver) receiver.jitterBufferTarget = PICTURE_BUFFER_MS;
      // tracks of one stream of the server's are played in step
      if (!streams[0]) both.addTrack(track);
      this.tell("stream", streams[0] ?? both);
    };
    peer.onconnectionstatechange = () => this.stateChanged();
    await peer.setLocalDescription();
    // sent at once: the server learns our address from our first packet, and gathering would only cost time
    const { sdp, type } = peer.localDescription;
    const answer = await this.offer({ sdp, type, actor, ...knobs });
    if (!answer) return;
    this.sessionId = answer.session_id;
    if (this.closed) return this.free();
    await peer.setRemoteDescription({ sdp: answer.sdp, type: answer.type });
    this.received.at = performance.now();
  }

  /** The answer; an actor that the server prepares for the first time is waited for. Null once closed. */
  async offer(body) {
    while (!this.closed) {
      try {
        return await api("POST", "offer", body);
      } catch (problem) {
        if (problem.code !== "actor_preparing") throw problem;
        this.tell("preparing", problem.details.done, problem.details.total);
        await sleep(ASK_AGAIN_MS);
      }
    }
    return null;
  }

  close() {
    if (this.closed) return;
    this.closed = true;
    this.free();
  }

  free() {
    clearTimeout(this.disconnected);
    this.microphone?.stop();
    this.peer?.close();
    if (this.sessionId) leave(this.sessionId);
    this.sessionId = null;
  }

  tell(name, ...values) {
    if (!this.closed) this.on[name](...values);
  }

  stateChanged() {
    clearTimeout(this.disconnected);
    const state = this.peer.connectionState;
    if (state === "connected") this.tell("connected");
    else if (state === "failed") this.tell("lost", "The connection to the server was lost.");
    else if (state === "disconnected") {
      // it may come back: wireless networks pause for a second or two
      this.disconnected = setTimeout(() => this.tell("lost", "The connection to the server was lost."), 3000);
    }
  }

  heard(data) {
    const message = JSON.parse(data);
    if (message.type === "closed") this.tell("lost", "The server ended the call.");
    else this.tell("message", message);
  }

  /** Told the number of video packets so far, once a second: no news for a while means that the server is gone. */
  watch(packets) {
    const now = performance.now();
    if (document.hidden || packets > this.received.packets) this.received = { packets, at: now };
    else if (packets && now - this.received.at > STALL_MS) this.tell("lost", "The connection to the server was lost.");
    else if (!packets && now - this.received.at > CONNECT_MS) {
      this.tell("lost", "The server answered, but no picture came: something may block the connection (UDP).");
    }
  }

  send(message) {
    this.channel.send(JSON.stringify(message));
  }

  /** Turn the knob of a call that is up; the offer has carried what was chosen before. */
  configure(knobs) {
    if (this.canSpeak) this.send({ type: "configure", ...knobs });
  }

  interrupt() {
    this.pushing = null;
    if (this.canSpeak) this.send({ type: "interrupt" });
  }

  /** Push an utterance: Int16Array mono. Resolves when all is sent; false when something else came between. */
  async push(pcm, rate) {
    await this.opened();
    if (this.pushing) this.interrupt();
    const mine = this.pushing = Symbol("push");
    const started = performance.now();
    this.send({ type: "start", rate });
    const bytes = new Uint8Array(pcm.buffer); // little endian, as every machine with a browser is
    for (let at = 0; at < bytes.length; at += CHUNK_BYTES) {
      while (this.canSpeak && this.pushing === mine && this.mustWait(at / 2 / rate, started)) await this.drained();
      if (this.closed || this.pushing !== mine) return false;
      this.channel.send(bytes.subarray(at, at + CHUNK_BYTES));
    }
    this.send({ type: "end" });
    this.pushing = null;
    return true;
  }

  mustWait(sentS, started) {
    const playedS = (performance.now() - started) / 1000;
    return this.channel.bufferedAmount > BUFFERED_BYTES || sentS - playedS > AHEAD_S;
  }

  drained() {
    const low = new Promise((resolve) => this.channel.addEventListener("bufferedamountlow", resolve, { once: true }));
    return Promise.race([low, sleep(250)]);
  }

  async opened() {
    const deadline = performance.now() + CONNECT_MS;
    while (!this.canSpeak) {
      if (this.closed) throw new Problem("The call ended before the file was sent.");
      if (performance.now() > deadline) throw new Problem("The connection to the server did not open.");
      await sleep(50);
    }
  }
}
