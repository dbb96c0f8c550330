/**
 * The chart: four panels of bars on logarithmic scales, in plain SVG. Its colours follow the
 * reader's light or dark scheme.
 */

import { COMPARED, LOCKS } from "./locks.mjs";

const WIDTH = 760;
const PANEL = { height: 44 + COMPARED.length * 22, top: 40 };
const BAR = { left: 190, width: 480, height: 14, step: 22 };

const STYLE = `
    text { font: 12px system-ui, sans-serif; fill: #24292f; }
    .title { font-weight: 600; font-size: 13px; }
    .note { fill: #57606a; }
    .bar { fill: #afb8c1; }
    .addon { fill: #0969da; }
    @media (prefers-color-scheme: dark) {
      text { fill: #e6edf3; }
      .note { fill: #9198a1; }
      .bar { fill: #484f58; }
      .addon { fill: #4493f8; }
    }`;

const PANELS = [
  { id: "uncontended", title: "Uncontended acquire and release, p50", value: (row) => row.p50, unit: "ms" },
  { id: "hand-off-short", title: "Hand-off between two processes, p50", value: (row) => row.p50, unit: "ms" },
  { id: "takeover", title: "Takeover after SIGKILL, p50", value: (row) => row.p50, unit: "ms" },
  {
    id: "contention",
    title: "Eight processes, one lock: acquisitions per second (longer is better)",
    value: (row) => row.perSecond,
    unit: "/s",
  },
];

function show(value, unit) {
  return unit === "/s" ? `${Math.round(value).toLocaleString("en")} /s` : `${Number(value.toPrecision(2))} ms`;
}

/** From a third of the smallest to the largest: every bar can be seen. */
function scale(values) {
  const low = Math.log10(Math.min(...values)) - 0.5;
  const high = Math.log10(Math.max(...values));
  return (value) => (BAR.width * (Math.log10(value) - low)) / (high - low);
}

function drawBar(name, value, width, y, unit) {
  const kind = name === "addon" ? "bar addon" : "bar";
  return `
    <text x="${BAR.left - 8}" y="${y + 11}" text-anchor="end">${LOCKS[name].title}</text>
    <rect class="${kind}" x="${BAR.left}" y="${y}" width="${width.toFixed(1)}" height="${BAR.height}" rx="2"/>
    <text class="note" x="${(BAR.left + width + 6).toFixed(1)}" y="${y + 11}">${show(value, unit)}</text>`;
}

function drawPanel({ id, title, value, unit }, results, top) {
  const rows = COMPARED.filter((name) => results[id][name]).map((name) => [
    name,
    value(results[id][name]),
  ]);
  const widthOf = scale(rows.map(([, value]) => value));
  const bars = rows.map(([name, value], index) =>
    drawBar(name, value, widthOf(value), top + 16 + index * BAR.step, unit),
  );
  return `
    <text class="title" x="12" y="${top}">${title}</text>${bars.join("")}`;
}

export function drawChart({ results, date }) {
  const panels = PANELS.filter(({ id }) => results[id]);
  const height = PANEL.top + panels.length * PANEL.height;
  const drawn = panels.map((panel, index) =>
    drawPanel(panel, results, PANEL.top + index * PANEL.height),
  );
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" role="img" aria-label="Benchmarks of session-write-lock beside other locks">
    <style>${STYLE}
    </style>
    <text class="note" x="12" y="16">Logarithmic scales; shorter is better unless said. Run of ${date}.</text>${drawn.join("")}
</svg>
`;
}
