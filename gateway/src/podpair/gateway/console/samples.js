/** A digit of each kind, for those who don't draw: SVG paths in a box of 100, one for each stroke. */
const PATHS = [
  ["M52 14C34 14 28 34 28 52C28 70 36 86 50 86C66 86 72 68 72 50C72 32 66 14 52 14"],
  ["M38 28C44 25 50 20 53 14L53 86"],
  ["M31 32C31 18 42 13 51 14C63 15 68 24 66 34C63 50 40 68 30 84C44 82 58 82 71 84"],
  ["M31 22C38 13 60 12 63 26C66 40 54 47 44 48C58 47 70 54 69 68C67 86 42 90 30 78"],
  ["M44 14C40 30 34 44 28 56C44 57 58 57 74 55", "M60 38C58 54 56 70 55 86"],
  ["M68 15L38 16C37 28 35 38 34 46C46 40 66 42 68 60C70 82 46 90 31 80"],
  ["M62 14C44 22 32 42 31 62C30 80 42 88 52 86C66 84 71 70 64 60C56 50 38 54 33 66"],
  ["M29 17C44 19 58 18 71 15C64 38 54 62 46 86", "M36 52C46 50 56 50 66 50"],
  ["M62 24C54 12 34 16 36 30C38 44 66 52 66 70C66 88 36 90 34 72C33 56 64 44 65 30C65 26 64 25 62 24"],
  ["M66 28C58 12 36 14 34 32C33 48 52 54 62 42C65 38 66 33 66 28C67 48 64 70 54 86"],
];
const STEP = 2.5;

/** The strokes of a digit, as DigitPad has them. */
export function sample(digit) {
  return PATHS[digit].map((d) => {
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    path.setAttribute("d", d);
    const length = path.getTotalLength();
    const count = Math.ceil(length / STEP);
    return Array.from({ length: count + 1 }, (_, i) => {
      const { x, y } = path.getPointAtLength((length * i) / count);
      return [x / 100, y / 100];
    });
  });
}
