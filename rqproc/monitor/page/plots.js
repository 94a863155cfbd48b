"use strict";
// The three plots of the last 15 minutes, drawn by uPlot. Colours come from page.css.

const HISTORY_S = 900;

const Plots = (() => {
  const points = [];
  const kinds = {
    requests: { at: "plot-requests", lines: ["requests_per_s", "errors_per_s"], text: rate },
    hits: { at: "plot-hits", lines: ["hit_rate"], text: percent, range: [0, 1] },
    latency: { at: "plot-latency", lines: ["p50_s", "p99_s"], text: duration },
  };

  function colour(name) {
    return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  }

  function options(kind, width) {
    const axis = {
      stroke: colour("--soft"), grid: { stroke: colour("--line"), width: 1 },
      ticks: { show: false }, font: "12px system-ui, sans-serif",
    };
    const strokes = [colour("--one"), colour("--two")];
    return {
      width, height: 150, cursor: { y: false }, legend: { show: false },
      scales: {
        x: { range: () => span() },
        y: { range: (_, low, high) => kind.range || [0, Math.max(high || 0, 1e-4) * 1.15] },
      },
      axes: [
        { ...axis, values: (_, at) => at.map((s) => clock(s)), space: 80, size: 30 },
        { ...axis, values: (_, all) => all.map((value) => kind.text(value)), size: 62 },
      ],
      series: [{}, ...kind.lines.map((_, place) => ({
        stroke: strokes[place], width: 2, spanGaps: false, points: { show: false },
      }))],
    };
  }

  // From the first point on, up to 15 minutes, and a minute at least.
  function span() {
    const now = Date.now() / 1000;
    const first = points.length ? points[0].at_s : now;
    return [Math.max(now - HISTORY_S, Math.min(first, now - 60)), now];
  }

  function data(kind) {
    const at = points.map((point) => point.at_s);
    return [at, ...kind.lines.map((name) => points.map((point) => point.rates[name]))];
  }

  function draw(kind) {
    const where = document.getElementById(kind.at);
    if (kind.plot) kind.plot.destroy();
    kind.plot = new uPlot(options(kind, where.clientWidth || 300), data(kind), where);
  }

  function describe(kind) {
    const last = points.length ? points[points.length - 1].rates : {};
    const said = kind.lines.map((name) => `${name.replace(/_/g, " ")} ${kind.text(last[name])}`);
    document.getElementById(kind.at).setAttribute("aria-label", `plot; now ${said.join(", ")}`);
  }

  function each(work) { Object.values(kinds).forEach(work); }

  function trim() {
    while (points.length && points[0].at_s < Date.now() / 1000 - HISTORY_S) points.shift();
  }

  return {
    begin(history) {
      points.splice(0, points.length, ...history);
      trim();
      each((kind) => { draw(kind); describe(kind); });
    },
    add(point) {
      if (points.length && point.at_s <= points[points.length - 1].at_s) return;
      points.push(point);
      trim();
      each((kind) => { if (kind.plot) kind.plot.setData(data(kind)); describe(kind); });
    },
    redraw() { each((kind) => { if (kind.plot) draw(kind); }); },
  };
})();

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => Plots.redraw());
addEventListener("resize", () => {
  clearTimeout(Plots.timer);
  Plots.timer = setTimeout(() => Plots.redraw(), 150);
});

// --- how numbers read ---

function rate(value) {
  if (value == null) return "-";
  return value >= 100 ? Math.round(value).toLocaleString("en") : value.toFixed(1);
}

function percent(value) { return value == null ? "-" : `${Math.round(value * 100)}%`; }

function duration(value) {
  if (value == null) return "-";
  if (value < 0.9995) return `${(value * 1000).toFixed(value < 0.09995 ? 1 : 0)} ms`;
  if (value < 100) return `${value.toFixed(1)} s`;
  return value < 5940 ? `${Math.round(value / 60)} min` : `${(value / 3600).toFixed(1)} h`;
}

function clock(seconds) {
  return new Date(seconds * 1000).toLocaleTimeString("en-GB");
}
