// Live figures: what this browser measures (getStats) and what the server says (its stats message).

const finite = (value) => (Number.isFinite(value) ? value : NaN);

export class Figures {
  constructor(peer) {
    this.peer = peer;
    this.server = {}; // the newest stats message
    this.before = null;
  }

  /** {latency, slack, fps, late, skew, network, packets}; NaN where nothing is known. Milliseconds, per cent. */
  async measure() {
    const report = [...(await this.peer.getStats()).values()];
    const inbound = (kind) => report.find((s) => s.type === "inbound-rtp" && s.kind === kind) ?? {};
    const video = inbound("video"), audio = inbound("audio"), before = this.before ?? {};
    this.before = video;
    const pair = report.find((s) => s.type === "candidate-pair" && s.nominated && s.state === "succeeded");
    const network = finite(1000 * pair?.currentRoundTripTime);
    const seconds = (video.timestamp - before.timestamp) / 1000;
    const shown = video.jitterBufferEmittedCount - before.jitterBufferEmittedCount;
    const buffer = shown > 0 ? 1000 * (video.jitterBufferDelay - before.jitterBufferDelay) / shown : 0;
    return {
      network,
      fps: finite((video.framesDecoded - before.framesDecoded) / seconds),
      // both tell which moment of the sender's clock plays now, each as of its own time stamp
      skew: finite((audio.estimatedPlayoutTimestamp - audio.timestamp)
        - (video.estimatedPlayoutTimestamp - video.timestamp)),
      latency: finite(this.server.latency_ms ?? NaN) + buffer + (network || 0),
      slack: finite(this.server.slack_ms?.p50),
      late: finite(this.server.late_frames_pct),
      packets: video.packetsReceived ?? 0,
    };
  }
}
