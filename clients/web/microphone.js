// The microphone: opening it, saying why it cannot be opened, and showing its level.

import { Problem } from "./server.js";

const FILE_INSTEAD = "You can still drop in a sound file.";

function explain(error) {
  switch (error?.name) {
    case "NotAllowedError":
    case "SecurityError":
      return `The microphone was not allowed. Allow it in the browser's address bar and start again. ${FILE_INSTEAD}`;
    case "NotFoundError":
    case "OverconstrainedError":
      return `No microphone was found. ${FILE_INSTEAD}`;
    case "NotReadableError":
      return `The microphone is in use by another program. ${FILE_INSTEAD}`;
    default:
      return `The microphone cannot be used (${error?.message ?? "unknown reason"}). ${FILE_INSTEAD}`;
  }
}

/** Ask for the microphone; returns its track or throws Problem. wishes: {echo, noise, gain}, booleans. */
export async function openMicrophone(wishes) {
  if (!navigator.mediaDevices?.getUserMedia) {
    throw new Problem("Browsers allow the microphone only over https, or on localhost. Start the server with "
      + `--cert-file and --key-file and open its https address. ${FILE_INSTEAD}`);
  }
  try {
    const stream = await navigator.mediaDevices.getUserMedia({
      audio: {
        echoCancellation: wishes.echo, noiseSuppression: wishes.noise, autoGainControl: wishes.gain, channelCount: 1,
      },
    });
    return stream.getAudioTracks()[0];
  } catch (error) {
    throw new Problem(explain(error));
  }
}

/** Call show(level 0..1) for every screen refresh; returns a function that stops it. */
export function watchLevel(track, show) {
  const context = new AudioContext();
  const analyser = Object.assign(context.createAnalyser(), { fftSize: 1024 });
  context.createMediaStreamSource(new MediaStream([track])).connect(analyser);
  const samples = new Float32Array(analyser.fftSize);
  let handle = 0;
  const draw = () => {
    analyser.getFloatTimeDomainData(samples);
    const power = samples.reduce((sum, x) => sum + x * x, 0) / samples.length;
    show(Math.min(1, Math.max(0, 1 + Math.log10(power + 1e-9) / 5))); // 50 dB from end to end
    handle = requestAnimationFrame(draw);
  };
  draw();
  return () => {
    cancelAnimationFrame(handle);
    context.close().catch(() => {});
    show(0);
  };
}
