/** Where the answers go: lines to a terminal, with colours and of its width, or to something else. */

const { stdout, stderr, env } = process;

/** Colour only on a terminal that has any, and never with NO_COLOR. */
const hasColours = stdout.isTTY === true && !env.NO_COLOR && stdout.hasColors();

function colour(start, end) {
  return (text) => (hasColours ? `\x1b[${start}m${text}\x1b[${end}m` : text);
}

export const paint = {
  bold: colour(1, 22),
  red: colour(31, 39),
  green: colour(32, 39),
  yellow: colour(33, 39),
};

/** Whether what has been printed can be written over. */
export const isScreen = stdout.isTTY === true && env.TERM !== "dumb";

export const paintVerdict = { held: paint.green, dead: paint.red, unknown: paint.yellow };

/** How many cells a line may take. Only a terminal has a limit. */
export function width() {
  return stdout.isTTY ? stdout.columns || 80 : Infinity;
}

export function print(...lines) {
  stdout.write(lines.map((line) => `${line}\n`).join(""));
}

/** Errors and remarks. */
export function complain(...lines) {
  stderr.write(lines.map((line) => `session-write-lock: ${line}\n`).join(""));
}

/** Breaks a paragraph into lines, each after a margin; words stay whole. */
export function wrap(text, margin = "") {
  const limit = Math.min(Math.max(stdout.isTTY ? stdout.columns || 80 : 80, 40), 100);
  const lines = [];
  let line = margin;
  for (const word of text.split(" ")) {
    if (line !== margin && line.length + 1 + word.length > limit) {
      lines.push(line);
      line = margin;
    }
    line += line === margin ? word : ` ${word}`;
  }
  return [...lines, line];
}
