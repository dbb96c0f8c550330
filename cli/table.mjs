/**
 * Columns that line up, also with wide and combining characters, within the width of a terminal.
 */

/*! Includes get-east-asian-width. Copyright (c) Sindre Sorhus. MIT License, as in the file LICENSE. */
import { eastAsianWidth } from "get-east-asian-width";

const GAP = "  ";

/** A column is not made narrower than this, unless it says so. */
const NARROWEST = 10;

/** How many cells of a terminal a text takes. It must be printable. */
function widthOf(text) {
  let width = 0;
  for (const character of text) {
    width += cellsOf(character);
  }
  return width;
}

function cellsOf(character) {
  return /^\p{M}$/u.test(character) ? 0 : eastAsianWidth(character.codePointAt(0));
}

/** Cuts what doesn't fit, at its end or, with `keep` "end", at its start. */
export function fit(text, width, keep = "start") {
  if (widthOf(text) <= width) {
    return text;
  }
  const characters = [...text];
  const kept = [];
  let left = width - 1;
  while (characters.length > 0) {
    const next = keep === "end" ? characters.pop() : characters.shift();
    left -= cellsOf(next);
    if (left < 0) {
      break;
    }
    kept.push(next);
  }
  return keep === "end" ? `…${kept.reverse().join("")}` : `${kept.join("")}…`;
}

/**
 * The lines of a table. A column has a `title`, may have a `shrink` order (1 gives way first), a
 * width that it has `most`, one that it has at `least` if it gives way, what to `keep` of a text that is cut, and a `paint` for its cells.
 * `width` is that of the terminal.
 */
export function table(columns, rows, width = Infinity) {
  const widths = columns.map(({ title, most = Infinity }, index) => {
    const widest = rows.reduce((so, row) => Math.max(so, widthOf(row[index])), widthOf(title));
    return Math.min(widest, most);
  });
  shrink(columns, widths, width);
  const header = columns.map(({ title }) => title);
  return [header, ...rows].map((row, number) => line(columns, widths, row, number === 0));
}

/** Takes from the columns that may give way, one after the other, until it fits. */
function shrink(columns, widths, width) {
  const order = columns.map((column, index) => ({ index, shrink: column.shrink ?? Infinity }));
  const givers = order.filter(({ shrink }) => shrink < Infinity);
  for (const { index } of givers.sort((a, b) => a.shrink - b.shrink)) {
    const total = widths.reduce((sum, each) => sum + each, GAP.length * (widths.length - 1));
    const surplus = Math.max(0, total - width);
    const least = columns[index].least ?? NARROWEST;
    widths[index] -= Math.min(surplus, Math.max(0, widths[index] - least));
  }
}

function line(columns, widths, row, isHeader) {
  const cells = columns.map(({ keep, paint }, index) => {
    const text = fit(row[index], widths[index], keep);
    const painted = paint && !isHeader ? paint(text) : text;
    const isLast = index === columns.length - 1;
    return isLast ? painted : painted + " ".repeat(widths[index] - widthOf(text));
  });
  return cells.join(GAP);
}
