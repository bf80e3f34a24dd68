/**
 * A pad to draw a digit on, and the digit as the model has learnt them: 8×8 counts of ink.
 *
 * scikit-learn's digits come from 32×32 bitmaps of normalised handwriting, divided into 4×4 blocks whose set pixels are
 * counted, 0 to 16 (UCI "Optical Recognition of Handwritten Digits"). So the strokes are kept as lines, fitted into the
 * 32×32 box with their own width there, and counted: how large or thick somebody draws makes no difference.
 */

const BOX = 32;
const BLOCK = 4;
const PEN = 3.6; // the width in the box that has as much ink as the data set's digits
const SMALLEST = 0.12; // of the pad: what is smaller isn't blown up further, a dot stays a dot

/** Draws lines through their points' midpoints: round, without corners where the pointer was sampled. */
function trace(context, strokes, place) {
  for (const stroke of strokes) {
    const points = stroke.map(place);
    context.beginPath();
    context.moveTo(...points[0]);
    for (let i = 1; i < points.length - 1; i++) {
      const [x, y] = points[i];
      context.quadraticCurveTo(x, y, (x + points[i + 1][0]) / 2, (y + points[i + 1][1]) / 2);
    }
    const [x, y] = points.at(-1);
    context.lineTo(points.length === 1 ? x + 0.01 : x, y);
    context.stroke();
  }
}

/** @param {[number, number][][]} strokes in units of the pad @returns {number[]} 64 values, 0 to 1, row by row */
export function pixels(strokes) {
  const canvas = new OffscreenCanvas(BOX, BOX);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  Object.assign(context, { lineWidth: PEN, lineCap: "round", lineJoin: "round" });
  const xs = strokes.flat().map(([x]) => x);
  const ys = strokes.flat().map(([, y]) => y);
  const [left, top] = [Math.min(...xs), Math.min(...ys)];
  const [width, height] = [Math.max(...xs) - left, Math.max(...ys) - top];
  const scale = (BOX - PEN) / Math.max(width, height, SMALLEST);
  const [dx, dy] = [(BOX - width * scale) / 2 - left * scale, (BOX - height * scale) / 2 - top * scale];
  trace(context, strokes, ([x, y]) => [x * scale + dx, y * scale + dy]);
  const { data } = context.getImageData(0, 0, BOX, BOX);
  const side = BOX / BLOCK;
  const counts = new Array(side * side).fill(0);
  for (let y = 0; y < BOX; y++) {
    for (let x = 0; x < BOX; x++) {
      if (data[(y * BOX + x) * 4 + 3] > 127) counts[Math.floor(y / BLOCK) * side + Math.floor(x / BLOCK)]++;
    }
  }
  return counts.map((count) => count / (BLOCK * BLOCK));
}

/** Dispatches `change` while somebody draws, `stroke` when a line ends, `begin` when somebody takes the pen. */
export class DigitPad extends EventTarget {
  /** Lines of [x, y], in units of the pad's side. */
  strokes = [];
  #canvas; #pen = null; #showing = 0;

  constructor(canvas) {
    super();
    this.#canvas = canvas;
    canvas.addEventListener("pointerdown", (event) => this.#down(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    for (const type of ["pointerup", "pointercancel"]) canvas.addEventListener(type, (event) => this.#up(event));
    new ResizeObserver(() => this.#draw()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#draw());
  }

  get empty() { return this.strokes.length === 0; }

  clear() {
    this.#showing++;
    this.strokes = [];
    this.#draw();
    this.#tell("change");
  }

  /** Draws the given strokes as a hand would, or at once where motion is unwanted. */
  async show(strokes) {
    this.clear();
    const mine = this.#showing;
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) this.strokes = strokes;
    else {
      for (const stroke of strokes) {
        this.strokes.push([]);
        for (const point of stroke) {
          this.strokes.at(-1).push(point);
          this.#draw();
          this.#tell("change");
          await new Promise((resolve) => setTimeout(resolve, 16));
          if (mine !== this.#showing) return;
        }
      }
    }
    this.#draw();
    this.#tell("stroke");
  }

  #down(event) {
    if (event.button !== 0 || this.#pen !== null) return;
    event.preventDefault();
    this.#canvas.setPointerCapture(event.pointerId);
    this.#pen = event.pointerId;
    this.#showing++;
    this.#tell("begin");
    this.strokes.push([this.#point(event)]);
    this.#draw();
    this.#tell("change");
  }

  #move(event) {
    if (event.pointerId !== this.#pen) return;
    const events = event.getCoalescedEvents?.() ?? [];
    for (const each of events.length ? events : [event]) this.strokes.at(-1).push(this.#point(each));
    this.#draw();
    this.#tell("change");
  }

  #up(event) {
    if (event.pointerId !== this.#pen) return;
    this.#pen = null;
    this.#tell("stroke");
  }

  #point(event) {
    const { left, top, width, height } = this.#canvas.getBoundingClientRect();
    return [(event.clientX - left) / width, (event.clientY - top) / height];
  }

  #draw() {
    const { clientWidth, clientHeight } = this.#canvas;
    const ratio = devicePixelRatio || 1;
    Object.assign(this.#canvas, { width: clientWidth * ratio, height: clientHeight * ratio });
    const context = this.#canvas.getContext("2d");
    context.strokeStyle = getComputedStyle(this.#canvas).color;
    Object.assign(context, { lineWidth: clientWidth * ratio * 0.055, lineCap: "round", lineJoin: "round" });
    const place = ([x, y]) => [x * clientWidth * ratio, y * clientHeight * ratio];
    trace(context, this.strokes.filter((stroke) => stroke.length), place);
  }

  #tell(type) { this.dispatchEvent(new Event(type)); }
}

/** What the model sees, as a small picture. */
export function showPixels(canvas, values) {
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, 8, 8);
  context.fillStyle = getComputedStyle(canvas).color;
  values.forEach((value, i) => {
    context.globalAlpha = value;
    context.fillRect(i % 8, Math.floor(i / 8), 1, 1);
  });
}
