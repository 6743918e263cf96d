// The latency ↔ quality knob: a slider over pairs of hop and lookahead, and a line that says what holds.

// Frames of 40 ms; docs/benchmarks.md has the quality and the cost of each.
const POSITIONS = [
  { name: "Fastest", hop: 1, lookahead: 0 },
  { name: "Fast", hop: 1, lookahead: 1 },
  { name: "Smooth", hop: 2, lookahead: 1 },
  { name: "Smoothest", hop: 2, lookahead: 2 },
];
const FRAME_MS = 40;
const ENCODER_MS = 20; // the speech encoder hears so far ahead
const SERVERS_OWN = "The server chooses until you do";

const waits = ({ hop, lookahead }) => FRAME_MS * (hop + lookahead) + ENCODER_MS;
const indexOf = (knobs) => POSITIONS.findIndex((p) => p.hop === knobs.hop && p.lookahead === knobs.lookahead);

export class Knob {
  /** slider: input of type range. output: element for the line. turned({hop, lookahead}): called when a person moved it. */
  constructor(slider, output, turned) {
    this.slider = slider;
    this.output = output;
    this.wish = null; // what the person chose, or null: the server's own
    this.held = null; // what the server last said
    slider.max = POSITIONS.length - 1;
    this.moving = false; // a person is dragging it: what the server says does not move it then
    slider.oninput = () => { this.moving = true; this.name(); };
    slider.onchange = () => {
      this.moving = false;
      const { hop, lookahead } = POSITIONS[slider.value];
      this.wish = { hop, lookahead };
      if (!this.held) this.say(`${POSITIONS[slider.value].name}, from the next call on`);
      turned(this.wish);
    };
    this.rest();
  }

  /** The server says what holds: {hop, lookahead, steps}. */
  holds(knobs) {
    this.held = knobs;
    const at = indexOf(knobs);
    if (at >= 0 && !this.moving) this.slider.value = at;
    this.name();
    const name = at >= 0 ? POSITIONS[at].name : "Set elsewhere";
    this.say(`${name}: hears ${waits(knobs)} ms ahead (hop ${knobs.hop}, lookahead ${knobs.lookahead}, `
      + `${knobs.steps} ${knobs.steps === 1 ? "step" : "steps"})`);
  }

  /** The server refused: back to what holds. */
  refused() {
    this.wish = null;
    if (this.held) this.holds(this.held);
    else this.rest();
  }

  /** No call: nothing holds. */
  rest() {
    this.held = null;
    const at = this.wish ? indexOf(this.wish) : indexOf({ hop: 1, lookahead: 1 });
    this.slider.value = at;
    this.name();
    this.say(this.wish ? `${POSITIONS[at].name}, from the next call on` : SERVERS_OWN);
  }

  name() {
    const position = POSITIONS[this.slider.value];
    this.slider.setAttribute("aria-valuetext", `${position.name}, ${waits(position)} ms`);
  }

  say(text) {
    if (this.output.textContent !== text) this.output.textContent = text; // a screen reader reads every change
  }
}
