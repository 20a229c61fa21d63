"use strict";
(() => {
  const WINDOW_S = 10;
  const DRAW_EVERY_MS = 66;
  const GROUND_M = 40;
  const MAX_EVENTS = 200;
  const MAX_LINES = 6; // in one chart
  const $ = (id) => document.getElementById(id);
  const numbers = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });

  // Canvas needs colors as computed, whichever theme is on.
  const probe = document.body.appendChild(document.createElement("span"));
  probe.hidden = true;
  const color = (name) => {
    probe.style.color = `var(--${name})`;
    return getComputedStyle(probe).color;
  };

  let run, socket, summary, ended;
  let steps = []; // [run_s, step]
  let charts = [];

  const setState = (text, kind) => {
    $("state").textContent = text;
    $("state").className = kind;
  };

  // --- robot ---------------------------------------------------------------------------------------------------------

  const robot = (() => {
    const box = $("scene");
    let renderer;
    try {
      renderer = new THREE.WebGLRenderer({ antialias: true });
    } catch {
      box.firstElementChild.textContent = "this browser has no WebGL: the robot is not drawn";
      return { shapes() {}, poses() {}, draw() {}, clear() {} };
    }
    const scene = new THREE.Scene();
    const camera = new THREE.PerspectiveCamera(45, 1, 0.01, 200);
    camera.up.set(0, 0, 1);
    const controls = new THREE.OrbitControls(camera, renderer.domElement);
    const sun = new THREE.DirectionalLight(0xffffff, 2.2);
    sun.position.set(2, -3, 5);
    scene.add(new THREE.HemisphereLight(0xffffff, 0x9aa0a8, 2.2), sun);
    const cell = document.createElement("canvas");
    cell.width = cell.height = 128;
    const ink = cell.getContext("2d");
    ink.strokeStyle = "#8a929c";
    ink.lineWidth = 3;
    ink.strokeRect(0, 0, 128, 128);
    const texture = new THREE.CanvasTexture(cell);
    texture.wrapS = texture.wrapT = THREE.RepeatWrapping;
    texture.repeat.set(4 * GROUND_M, 4 * GROUND_M); // a cell is 0.25 m
    texture.anisotropy = renderer.capabilities.getMaxAnisotropy();
    const grid = new THREE.Mesh(new THREE.PlaneGeometry(GROUND_M, GROUND_M), new THREE.MeshBasicMaterial({ map: texture, transparent: true }));
    scene.add(grid);
    let frames = {}, home = null, seen = null;
    const isGround = ({ size_m: [x, y, z] }) => Math.min(x, y) > 10 && z < 0.01; // the grid is drawn instead
    const meshOf = ({ kind, position_m, quaternion, size_m, rgba }) => {
      const geometry =
        kind === "cubes" ? new THREE.BoxGeometry(1, 1, 1)
        : kind === "spheres" ? new THREE.SphereGeometry(0.5, 32, 16)
        : new THREE.CylinderGeometry(0.5, 0.5, 1, 32).rotateX(Math.PI / 2);
      const material = new THREE.MeshLambertMaterial({
        color: new THREE.Color().setRGB(...rgba.slice(0, 3), "srgb"), transparent: rgba[3] < 1, opacity: rgba[3],
      });
      const mesh = new THREE.Mesh(geometry, material);
      mesh.position.set(...position_m);
      const [w, x, y, z] = quaternion;
      mesh.quaternion.set(x, y, z, w);
      mesh.scale.set(...size_m);
      return mesh;
    };
    const clear = () => {
      Object.values(frames).forEach((group) => scene.remove(group));
      frames = {};
    };
    const resize = () => {
      renderer.setPixelRatio(Math.min(devicePixelRatio, 2));
      renderer.setSize(box.clientWidth, box.clientHeight, false);
      camera.aspect = box.clientWidth / Math.max(1, box.clientHeight);
      camera.updateProjectionMatrix();
    };
    return {
      clear,
      shapes(byFrame) {
        clear();
        let reach = 0.2;
        for (const [frame, solids] of Object.entries(byFrame)) {
          frames[frame] = new THREE.Group();
          solids.filter((solid) => !isGround(solid)).forEach((solid) => frames[frame].add(meshOf(solid)));
          if (frame !== "world") solids.forEach(({ position_m, size_m }) => (reach = Math.max(reach, Math.hypot(...position_m) + Math.max(...size_m))));
          scene.add(frames[frame]);
        }
        if (!home) {
          box.replaceChildren(renderer.domElement);
          renderer.domElement.setAttribute("aria-label", "the robot, in 3D; drag to turn, wheel to zoom");
          home = new THREE.Vector3(-1.5, -2.2, 1.1).multiplyScalar(reach);
          camera.position.copy(home);
          new ResizeObserver(resize).observe(box);
        }
      },
      poses(values) {
        run.frames.forEach((frame, i) => {
          const group = frames[frame];
          if (!group) return;
          const [x, y, z, w, a, b, c] = values.slice(7 * i, 7 * i + 7);
          group.position.set(x, y, z);
          group.quaternion.set(a, b, c, w);
        });
        const followed = frames[run.frames[0]];
        if (!followed) return;
        const at = followed.position.clone();
        if (seen) camera.position.add(at.clone().sub(seen));
        else camera.position.copy(home).add(at);
        controls.target.copy(at);
        grid.position.set(Math.round(at.x), Math.round(at.y), 0); // cells stay where they are
        seen = at;
      },
      draw() {
        if (!home) return;
        scene.background = new THREE.Color(color("sky"));
        controls.update();
        renderer.render(scene, camera);
      },
    };
  })();

  // --- traces --------------------------------------------------------------------------------------------------------

  const chart = (title, lines, more = {}) => {
    const box = document.createElement("div");
    box.className = "chart";
    const heading = box.appendChild(document.createElement("p"));
    heading.appendChild(document.createElement("b")).textContent = title;
    const outputs = lines.map(({ name }, i) => {
      const label = heading.appendChild(document.createElement("span"));
      label.appendChild(document.createElement("i")).style.background = `var(--run${i})`;
      label.append(`${name} `);
      return label.appendChild(document.createElement("output"));
    });
    $("charts").append(box);
    const axis = (size) => {
      const grid = { stroke: () => color("line"), width: 1 };
      return { stroke: () => color("muted"), grid, ticks: grid, font: "11px system-ui, sans-serif", ...size };
    };
    const options = {
      width: $("charts").clientWidth - 2 * parseFloat(getComputedStyle($("charts")).paddingLeft), height: 118,
      legend: { show: false }, cursor: { show: false },
      scales: { x: { time: false }, y: more.scale ?? {} },
      axes: [axis({ size: 24 }), axis({ size: 56, space: 22 })],
      series: [{}, ...lines.map((_, i) => ({ stroke: () => color(`run${i}`), width: 1.25, points: { show: false }, ...more.series }))],
      hooks: { draw: more.draw ? [more.draw] : [] },
    };
    const plot = new uPlot(options, [[], ...lines.map(() => [])], box);
    return {
      plot,
      update(times) {
        const values = lines.map(({ of }) => steps.map(([, step]) => of(step) ?? null));
        plot.setData([times, ...values], false);
        const last = times[times.length - 1] ?? 0;
        plot.batch(() => {
          plot.setScale("x", { min: Math.max(0, last - WINDOW_S), max: Math.max(last, WINDOW_S) });
          plot.setData([times, ...values], false);
          const shown = values.flat().filter((value) => value !== null);
          const [low, high] = [Math.min(...shown, more.low ?? Infinity), Math.max(...shown, more.high ?? -Infinity)];
          if (!more.scale) plot.setScale("y", low < high ? { min: low, max: high } : { min: low - 1, max: low + 1 });
        });
        outputs.forEach((output, i) => (output.textContent = numbers.format(values[i][values[i].length - 1] ?? NaN).replace("NaN", "—")));
      },
    };
  };

  const periodMs = () => run.spec.control_period_s * 1e3;
  const drawPeriod = (plot) => {
    const { left, width } = plot.bbox;
    const y = plot.valToPos(periodMs(), "y", true);
    plot.ctx.save();
    plot.ctx.strokeStyle = color("bad");
    plot.ctx.setLineDash([5 * devicePixelRatio, 3 * devicePixelRatio]);
    plot.ctx.beginPath();
    plot.ctx.moveTo(left, y);
    plot.ctx.lineTo(left + width, y);
    plot.ctx.stroke();
    plot.ctx.restore();
  };

  const build = () => {
    $("charts").replaceChildren();
    const some = (names, of) => names.slice(0, MAX_LINES).map((name) => ({ name, of: (step) => of(step)[name] }));
    const signals = (kind) => run.spec[kind].map(({ name }) => name);
    charts = [chart("action", some(signals("action"), (step) => step.action))];
    if (run.trace.length) charts.push(chart("plant", some(run.trace, (step) => step.plant)));
    charts.push(chart("observation", some(signals("observation"), (step) => step.observation)));
    if (run.clock !== "lockstep") {
      const timing = [{ name: "ms", of: (step) => step.round_trip_us && step.round_trip_us / 1e3 }];
      charts.push(chart("round trip", timing, { low: 0, high: 1.2 * periodMs(), draw: drawPeriod }));
    }
  };

  // --- numbers -------------------------------------------------------------------------------------------------------

  const tile = (name, text, kind = "") => {
    const box = document.createElement("div");
    box.className = kind;
    const value = document.createElement("b");
    value.textContent = text;
    box.append(value, name);
    return box;
  };
  const quantile = (share) => {
    const { bins, bins_per_period: per } = summary;
    let left = share * bins.reduce((sum, bin) => sum + bin, 0);
    const which = bins.findIndex((bin) => (left -= bin) <= 0);
    return which === bins.length - 1 ? summary.max_us / 1e3 : Math.min(((which + 1) / per) * periodMs(), summary.max_us / 1e3);
  };
  const drawNumbers = () => {
    const { counts, bins, bins_per_period: per } = summary;
    const of = (name) => counts[name] ?? 0;
    const timed = bins.some((bin) => bin);
    const bad = (count) => (count ? "bad" : "good");
    const [time, latest] = steps[steps.length - 1] ?? [0, { episode: 0, step: 0 }];
    $("tiles").replaceChildren(
      tile("simulated", `${time.toFixed(1)} s`),
      tile("episode", `${latest.episode + 1} of ${run.seeds.length}`),
      tile("late", of("late"), bad(of("late"))),
      tile("lost", of("lost") + of("unsent"), bad(of("lost") + of("unsent"))),
      tile("wrong", of("rejected"), bad(of("rejected"))),
      tile("reboots", of("reboot"), of("reboot") ? "warn" : "good"),
      tile("steps held", of("held"), of("held") ? "warn" : "good"),
      ...(timed ? [tile("p50 ≤, ms", numbers.format(quantile(0.5))), tile("p99 ≤, ms", numbers.format(quantile(0.99))), tile("max, ms", numbers.format(summary.max_us / 1e3), summary.max_us / 1e3 > periodMs() ? "bad" : "")] : []),
    );
    $("round_trips").textContent = timed ? "logarithmic counts; late replies included" : "lockstep: not measured";
    const svg = $("histogram");
    const NS = "http://www.w3.org/2000/svg";
    const make = (kind, attributes, text) => {
      const made = document.createElementNS(NS, kind);
      Object.entries(attributes).forEach(([name, value]) => made.setAttribute(name, value));
      if (text !== undefined) made.textContent = text;
      return made;
    };
    const width = 620 / bins.length, top = Math.log1p(Math.max(1, ...bins));
    const bars = bins.flatMap((bin, i) => {
      const height = (Math.log1p(bin) / top) * 95;
      return bin ? [make("rect", { x: 10 + i * width, y: 105 - height, width: Math.max(1, width - 1), height, class: i >= per ? "late" : "" })] : [];
    });
    const at = (periods) => 10 + periods * per * width;
    const labels = [0, 0.5, 1, 1.5, 2].map((periods) => make("text", { x: at(periods), y: 122, "text-anchor": periods ? "middle" : "start" }, `${numbers.format(periods * periodMs())}${periods === 2 ? "+" : ""} ms`));
    svg.replaceChildren(...bars, make("line", { x1: at(1), x2: at(1), y1: 4, y2: 105 }), ...labels);
  };

  const addEvent = (at, text, kind) => {
    const line = document.createElement("li");
    line.className = kind;
    line.textContent = `${at.toFixed(2)} s  ${text}`;
    $("events").prepend(line);
    while ($("events").children.length > MAX_EVENTS) $("events").lastElementChild.remove();
  };

  // --- messages ------------------------------------------------------------------------------------------------------

  const BY_HAND = ["paused", "push", "target", "fault"];
  const take = {
    begin(message) {
      run = message;
      steps = [];
      summary = undefined;
      ended = undefined;
      robot.clear();
      document.title = `${run.policy} on ${run.board.definition}: live`;
      $("title").textContent = `${run.policy} on ${run.board.definition} (${run.board.processor}, ${run.board.engine} ${run.board.engine_version})`;
      $("clock").textContent = `${run.environment}, ${run.clock}, ${numbers.format(1 / run.spec.control_period_s)} Hz`;
      if (!run.frames.length) $("scene").textContent = "this environment has no 3D model: its signals are on the right";
      $("events").replaceChildren();
      build();
      $("push").hidden = !run.can_push;
      $("fault").hidden = !run.can_inject;
      $("targets").replaceChildren(...Object.entries(run.targets).map(([name, [low, high]]) => {
        const label = document.createElement("label");
        label.className = "target";
        const slider = Object.assign(document.createElement("input"), { type: "range", min: low, max: high, step: (high - low) / 200, value: 0 });
        const output = document.createElement("span");
        output.textContent = "—";
        slider.addEventListener("input", () => (output.textContent = numbers.format(slider.value)));
        slider.addEventListener("change", () => ask({ do: "target", name, value: Number(slider.value) }));
        label.append(`${name} `, output, slider);
        return label;
      }));
      $("controls").disabled = false;
      setState("running", "good");
    },
    "/scene": (message) => robot.shapes(message),
    "/tf": (message) => robot.poses(message),
    "/step": (message) => steps.push(message),
    "/fault": ({ t_s, kind, detail }) => addEvent(t_s, `${kind}: ${detail}`, BY_HAND.includes(kind) ? "muted" : "bad"),
    "/injected": ({ t_s, fault, direction }) => addEvent(t_s, `injected ${fault} ${direction}`, "warn"),
    "/episode": ({ t_s, episode, steps: count, failed }) => addEvent(t_s, `episode ${episode + 1}: ${failed ? "failed after " : ""}${count} steps`, failed ? "bad" : "good"),
    state({ paused }) {
      $("pause").textContent = paused ? "resume" : "pause";
      if (run && !ended) setState(paused ? "paused" : "running", paused ? "warn" : "good");
    },
    end({ verdict }) {
      ended = verdict;
      $("controls").disabled = true;
      setState(verdict, verdict.startsWith("PASS") ? "good" : "bad");
    },
    refused: ({ reason }) => ($("refused").textContent = reason),
    summary: (message) => (summary = message),
  };

  let drawn = 0;
  const draw = (now) => {
    requestAnimationFrame(draw);
    robot.draw();
    if (!run || !summary || now - drawn < DRAW_EVERY_MS) return;
    drawn = now;
    const last = steps[steps.length - 1]?.[0] ?? 0;
    const from = steps.findIndex(([at]) => at >= last - WINDOW_S);
    if (from > 0) steps.splice(0, from);
    const times = steps.map(([at]) => at);
    charts.forEach((each) => each.update(times));
    drawNumbers();
  };
  requestAnimationFrame(draw);

  const connect = () => {
    socket = new WebSocket(`ws://${location.host}/stream${location.search}`);
    socket.addEventListener("message", ({ data }) => JSON.parse(data).forEach(([topic, message]) => take[topic]?.(message)));
    socket.addEventListener("close", () => {
      $("controls").disabled = true;
      if (!ended) setState("the run is over, or hil run was ended", "warn");
    });
  };
  connect();

  // --- requests ------------------------------------------------------------------------------------------------------

  const ask = (request) => {
    $("refused").textContent = "";
    if (socket.readyState === WebSocket.OPEN && !$("controls").disabled) socket.send(JSON.stringify(request));
  };
  const push = (x, y) => run.can_push && ask({ do: "push", x_m_s: x * Number($("speed").value), y_m_s: y * Number($("speed").value) });
  const togglePause = () => ask({ do: $("pause").textContent });
  $("pause").addEventListener("click", togglePause);
  $("speed").addEventListener("input", () => ($("speed_text").textContent = Number($("speed").value).toFixed(2)));
  $("push").addEventListener("click", ({ target: { dataset } }) => dataset.x && push(Number(dataset.x), Number(dataset.y)));
  $("fault").querySelector("select").addEventListener("change", ({ target }) => ($("fault_text").value = target.value));
  $("fault").addEventListener("submit", (event) => {
    event.preventDefault();
    ask({ do: "fault", fault: $("fault_text").value });
  });
  const ARROWS = { ArrowUp: [1, 0], ArrowDown: [-1, 0], ArrowLeft: [0, 1], ArrowRight: [0, -1] };
  addEventListener("keydown", (event) => {
    if (!run || event.target.closest("input, select, button, #events, canvas")) return;
    if (event.key === " ") togglePause();
    else if (ARROWS[event.key]) push(...ARROWS[event.key]);
    else return;
    event.preventDefault();
  });

  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => charts.forEach(({ plot }) => plot.redraw()));
  new ResizeObserver(() => {
    const style = getComputedStyle($("charts"));
    const width = $("charts").clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
    charts.forEach(({ plot }) => width > 0 && plot.setSize({ width, height: plot.height }));
  }).observe($("charts"));
})();
