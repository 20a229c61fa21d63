"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const root = document.documentElement;
  const home = document.getElementById("charts");
  const plots = [];

  // Canvas needs colors as computed, whichever theme is on.
  const probe = document.body.appendChild(document.createElement("span"));
  probe.hidden = true;
  const color = (name) => {
    probe.style.color = `var(--${name})`;
    return getComputedStyle(probe).color;
  };
  const runColor = (run) => color(`run${run % 8}`);

  const redraw = () => plots.forEach((plot) => plot.batch(() => plot.redraw()));
  const setTheme = (theme) => {
    if (theme) root.dataset.theme = theme;
    else delete root.dataset.theme;
    redraw();
  };
  const prefersDark = matchMedia("(prefers-color-scheme: dark)");
  prefersDark.addEventListener("change", redraw);
  document.getElementById("theme").addEventListener("click", () => {
    const dark = (root.dataset.theme ?? (prefersDark.matches ? "dark" : "light")) === "dark";
    setTheme(dark ? "light" : "dark");
  });

  document.querySelectorAll("[data-copy]").forEach((button) => {
    button.addEventListener("click", async () => {
      const code = button.previousElementSibling;
      try {
        await navigator.clipboard.writeText(code.textContent);
        button.textContent = "copied";
      } catch {
        getSelection().selectAllChildren(code);
        button.textContent = "selected";
      }
      setTimeout(() => (button.textContent = "copy"), 1500);
    });
  });

  if (!home) return;

  const decode = (text, kind) => new kind(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
  const withGaps = (values) => Array.from(values, (value) => (Number.isFinite(value) ? value : null));
  const times = data.runs.map((run) => decode(run.x, Float64Array));
  const events = data.events.map((event) => ({ ...event, x: decode(event.x, Float64Array) }));
  const ends = [...times, ...events.map((event) => event.x)].map((x) => x[x.length - 1] ?? 0);
  const full = { min: 0, max: Math.max(...ends, data.period_ms / 1e3) };
  let view = full;

  // One zoom for all: a plot that was zoomed hands its range on.
  let sharing = false;
  const zoom = (min, max) => {
    if (sharing) return;
    sharing = true;
    view = { min, max };
    plots.forEach((plot) => plot.setScale("x", view));
    sharing = false;
  };

  const FONT = "11px system-ui, sans-serif";
  const numbers = new Intl.NumberFormat("en", { maximumSignificantDigits: 4 });
  const grid = () => ({ stroke: () => color("line"), width: 1 });
  const axis = (more) => ({ stroke: () => color("muted"), grid: grid(), ticks: grid(), font: FONT, ...more });
  const eventName = (event) => (data.runs.length > 1 ? `${event.kind}, ${data.runs[event.run].label}` : event.kind);
  const ruler = document.createElement("canvas").getContext("2d");
  ruler.font = FONT;
  // Left of every plot, so that their times are aligned; wide enough for the names of events.
  const margin = Math.min(260, Math.max(72, ...events.map((event) => ruler.measureText(eventName(event)).width + 24)));
  const base = (box, height) => ({
    width: home.clientWidth,
    height,
    legend: { show: false },
    cursor: { sync: { key: "time" }, drag: { x: true, y: false } },
    hooks: {
      setScale: [
        (plot, key) => {
          if (key !== "x") return;
          const { min, max } = plot.scales.x;
          Object.assign(box.dataset, { from: min, to: max });
          zoom(min, max);
        },
      ],
      draw: [drawEdges],
    },
  });

  const line = (plot, x0, y0, x1, y1, stroke, dash) => {
    const { ctx } = plot;
    ctx.save();
    ctx.strokeStyle = stroke;
    ctx.lineWidth = devicePixelRatio;
    ctx.setLineDash(dash.map((each) => each * devicePixelRatio));
    ctx.beginPath();
    ctx.moveTo(x0, y0);
    ctx.lineTo(x1, y1);
    ctx.stroke();
    ctx.restore();
  };
  function drawEdges(plot) {
    const { left, top, width, height } = plot.bbox;
    for (const run of data.runs) {
      for (const edge of run.edges) {
        const x = plot.valToPos(edge, "x", true);
        if (x > left && x < left + width) line(plot, x, top, x, top + height, color("muted"), [2, 4]);
      }
    }
  }
  function drawPeriod(plot) {
    const { left, top, width, height } = plot.bbox;
    const y = plot.valToPos(data.period_ms, "y", true);
    if (y > top && y < top + height) line(plot, left, y, left + width, y, color("bad"), [5, 3]);
    plot.ctx.fillStyle = color("bad");
    const size = 4 * devicePixelRatio;
    for (let series = 1; series < plot.data.length; series++) {
      plot.data[series].forEach((value, i) => {
        const x = plot.data[0][i];
        if (value > data.period_ms && x >= plot.scales.x.min && x <= plot.scales.x.max) {
          plot.ctx.fillRect(plot.valToPos(x, "x", true) - size / 2, plot.valToPos(value, "y", true) - size / 2, size, size);
        }
      });
    }
  }

  const boxOf = (title) => {
    const box = document.createElement("div");
    box.className = "chart";
    const heading = document.createElement("p");
    const name = document.createElement("b");
    name.textContent = title;
    const output = document.createElement("output");
    heading.append(name, output);
    box.append(heading);
    return { box, output };
  };

  const chart = (spec) => {
    const { box, output } = boxOf(spec.unit ? `${spec.name} (${spec.unit})` : spec.name);
    const build = () => {
      const shown = spec.y.flatMap((y, run) => (y === null ? [] : [run]));
      const tables = shown.map((run) => [times[run], withGaps(decode(spec.y[run], Float32Array))]);
      const isTiming = spec.unit === "ms";
      const options = base(box, 130);
      options.scales = { x: { time: false, ...view }, y: { distr: isTiming ? 3 : 1 } };
      options.axes = [axis({ size: 24 }), axis({ size: margin, space: 24 })];
      options.series = [{}, ...shown.map((run) => ({ stroke: () => runColor(run), width: 1.25, points: { show: false } }))];
      if (isTiming) options.hooks.draw.push(drawPeriod);
      options.hooks.setCursor = [
        (plot) => {
          const i = plot.cursor.idx;
          const values = i == null ? [] : shown.map((run, k) => [run, plot.data[k + 1][i]]).filter(([, value]) => value != null);
          output.textContent = values
            .map(([run, value]) => `${data.runs.length > 1 ? `${data.runs[run].label} ` : ""}${numbers.format(value)}`)
            .join("   ");
          if (i != null) output.textContent += `   at ${numbers.format(plot.data[0][i])} s`;
        },
      ];
      return new uPlot(options, tables.length > 1 ? uPlot.join(tables) : tables[0], box);
    };
    return { box, build };
  };

  // Marks in rows: one for each kind of event and run.
  const timeline = () => {
    const { box, output } = boxOf("Faults, injected faults and held steps");
    box.style.minHeight = "0";
    const build = () => {
      const rows = events.length;
      const options = base(box, 34 + 22 * rows);
      options.scales = { x: { time: false, ...view }, y: { range: [-0.6, rows - 0.4] } };
      const labels = axis({ size: margin, splits: () => events.map((_, row) => rows - 1 - row), values: () => events.map(eventName) });
      options.axes = [axis({ size: 24 }), labels];
      options.series = [
        {},
        ...events.map((event) => ({
          stroke: () => color(event.kind === "held" ? "muted" : event.kind.startsWith("injected ") ? "warn" : "bad"),
          paths: () => null,
          points: { show: true, size: 7, width: 2 },
        })),
      ];
      options.hooks.setCursor = [
        (plot) => {
          const i = plot.cursor.idx;
          const here = i == null ? [] : events.filter((_, row) => plot.data[row + 1][i] != null);
          output.textContent = here.length ? `${here.map(eventName).join("; ")} at ${numbers.format(plot.data[0][i])} s` : "";
        },
      ];
      const tables = events.map((event, row) => [event.x, Array(event.x.length).fill(rows - 1 - row)]);
      return new uPlot(options, tables.length > 1 ? uPlot.join(tables) : tables[0], box);
    };
    return { box, build };
  };

  // One plot after the other, so that the page can be scrolled meanwhile.
  const pending = [];
  const buildNext = () => {
    sharing = true; // its first scale is the view already
    plots.push(pending.shift()());
    sharing = false;
    if (pending.length) setTimeout(() => pending.length && buildNext());
  };
  const add = ({ box, build }) => {
    home.append(box);
    pending.push(build);
  };
  if (events.length) add(timeline());
  for (const group of data.groups) {
    const heading = document.createElement("h3");
    heading.textContent = group.title;
    home.append(heading);
    group.charts.forEach((spec) => add(chart(spec)));
  }
  if (pending.length) buildNext();

  const resize = (width) => plots.forEach((plot) => plot.batch(() => plot.setSize({ width, height: plot.height })));
  new ResizeObserver(() => home.clientWidth && resize(home.clientWidth)).observe(home);

  let before, closed;
  addEventListener("beforeprint", () => {
    before = root.dataset.theme;
    closed = document.querySelectorAll("details.print:not([open])");
    closed.forEach((each) => (each.open = true));
    while (pending.length) buildNext();
    root.dataset.theme = "light";
    resize(680); // draws at once: what is queued would be drawn after the page was printed
  });
  addEventListener("afterprint", () => {
    setTheme(before);
    closed.forEach((each) => (each.open = false));
    resize(home.clientWidth);
  });

  // Events that are close together count as one.
  const reach = (100 * data.period_ms) / 1e3;
  const stops = [];
  for (const at of events.flatMap((event) => [...event.x]).sort((a, b) => a - b)) {
    if (!stops.length || at - stops[stops.length - 1] > reach) stops.push(at);
  }
  const show = (at) => at !== undefined && zoom(Math.max(0, at - reach), at + reach);
  const isWhole = () => view.min <= full.min && view.max >= full.max;
  const actions = {
    all: () => zoom(full.min, full.max),
    next: () => show(stops.find((at) => at > (isWhole() ? -1 : (view.min + view.max) / 2 + 1e-9))),
    previous: () => show(stops.findLast((at) => at < (view.min + view.max) / 2 - 1e-9)),
  };
  document.querySelectorAll("[data-zoom]").forEach((button) => {
    button.disabled = button.dataset.zoom !== "all" && !stops.length;
    button.addEventListener("click", () => actions[button.dataset.zoom]());
  });
})();
