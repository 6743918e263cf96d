// Sound files.

import { Problem } from "./server.js";

export const PUSH_RATE = 24000; // Hz
const MAX_FILE_S = 1800;

/** Any sound file the browser knows → Int16Array, mono, PUSH_RATE; throws Problem. */
export async function decode(file) {
  let buffer;
  try {
    // an offline context decodes and resamples to its own rate
    buffer = await new OfflineAudioContext(1, 1, PUSH_RATE).decodeAudioData(await file.arrayBuffer());
  } catch {
    throw new Problem(`“${file.name}” cannot be decoded. Try a WAV, MP3, OGG or FLAC file.`);
  }
  if (!buffer.length) throw new Problem(`“${file.name}” is empty.`);
  if (buffer.duration > MAX_FILE_S) throw new Problem(`“${file.name}” is longer than half an hour.`);
  const channels = Array.from({ length: buffer.numberOfChannels }, (_, c) => buffer.getChannelData(c));
  const pcm = new Int16Array(buffer.length);
  for (let i = 0; i < pcm.length; i++) {
    let sum = 0;
    for (const channel of channels) sum += channel[i];
    pcm[i] = Math.round(32767 * Math.max(-1, Math.min(1, sum / channels.length)));
  }
  return pcm;
}
