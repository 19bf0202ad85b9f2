// The page of drive/server.py: reads keys, stick and buttons, asks for chunks, shows both worlds.
"use strict";

const at = (id) => document.getElementById(id);
const SIDES = ["real", "imagined"];
const FRAME_MS = 90; // a chunk is shown no faster than this per action
// Key -> [axis, sign]; axes as the tabletop tasks have them: right, away, up.
const MOVES = {
  ArrowRight: [0, 1], KeyD: [0, 1], ArrowLeft: [0, -1], KeyA: [0, -1],
  ArrowUp: [1, 1], KeyW: [1, 1], ArrowDown: [1, -1], KeyS: [1, -1],
  KeyQ: [2, 1], KeyE: [2, -1],
};

let about = null;
let episode = null;
let curves = null;
let busy = false; // one request at a time: the worlds move in turns
let playing = false;
let gripping = false;
const keys = new Map(); // held keys and buttons -> [axis, sign]
const tapped = new Map(); // pressed since the last chunk: a short press still counts for one
const stick = [0, 0];

const pause = (ms) => new Promise((done) => setTimeout(done, ms));

async function call(name, request) {
  const options = request && {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(request),
  };
  let response;
  try {
    response = await fetch(name, options);
  } catch {
    throw new Error("The server does not answer: is python -m wmpo_jax.play still running?");
  }
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error);
  return answer;
}

// Runs one exchange with the server unless another is under way.
async function exchange(work) {
  if (busy) return;
  busy = true;
  try {
    await work();
    at("error").textContent = "";
  } catch (error) {
    setPlaying(false);
    at("error").textContent = error.message;
  } finally {
    busy = false;
  }
}

async function show(side, uri) {
  const image = new Image();
  image.src = uri;
  await image.decode();
  const canvas = at(side);
  canvas.width = image.width;
  canvas.height = image.height;
  canvas.getContext("2d").drawImage(image, 0, 0);
}

function setState(side, solved, broken) {
  const state = at(`${side}-state`);
  state.textContent = broken ? "✗ physics broke" : solved ? "✓ solved" : "";
  state.className = broken ? "broken" : solved ? "solved" : "";
}

async function reset() {
  const answer = await call("reset", { role: at("role").value, number: at("number").valueAsNumber });
  episode = answer.episode;
  curves = { error: [], real: [], imagined: [] };
  at("instruction").textContent = `“${answer.instruction}”`;
  at("outcomes").textContent = Object.entries(answer.outcomes)
    .map(([policy, solved]) => `${policy} ${solved ? "solved" : "failed"} it`).join(", ");
  at("steps").textContent = 0;
  for (const side of SIDES) {
    await show(side, answer.frame);
    setState(side, false, false);
    at(`${side}-p`).textContent = "";
  }
  at("error-now").textContent = "";
  draw();
}

async function step() {
  const asked = performance.now();
  const answer = await call("step", {
    episode, hand: action(), real: at("real-driver").value, imagined: at("imagined-driver").value,
  });
  const round = performance.now() - asked;
  for (const [part, ms] of Object.entries({ ...answer.milliseconds, round })) {
    at(`${part}-ms`).textContent = `${ms < 10 ? ms.toFixed(1) : ms.toFixed(0)} ms`;
  }
  for (let k = 0; k < answer.error.length; k++) {
    curves.error.push(answer.error[k]);
    for (const side of SIDES) {
      await show(side, answer[side].frames[k]);
      const probability = answer[side].probability[k];
      curves[side].push(probability);
      at(`${side}-p`).textContent = probability.toFixed(2);
      setState(side, answer[side].success[k], answer[side].invalid);
    }
    at("error-now").textContent = answer.error[k].toFixed(1);
    at("steps").textContent = answer.steps - answer.error.length + k + 1;
    draw();
    await pause(FRAME_MS);
  }
}

function action() {
  const sum = [stick[0], stick[1], 0];
  for (const [axis, sign] of new Map([...tapped, ...keys]).values()) sum[axis] += sign;
  tapped.clear();
  const full = [...sum.map((value) => Math.max(-1, Math.min(1, value))), gripping ? 1 : -1];
  return full.slice(0, about.action_dim);
}

const handMoves = () => keys.size + tapped.size > 0 || stick[0] !== 0 || stick[1] !== 0;

// The loop: while something is held or the drivers play on, chunk follows chunk.
async function drive() {
  for (;;) {
    if (episode && (playing || handMoves())) await exchange(step);
    await pause(15);
  }
}

function setPlaying(on) {
  playing = on;
  at("play").setAttribute("aria-pressed", on);
  at("play").textContent = on ? "pause" : "play";
}

function setGrip(on) {
  gripping = on;
  at("grip").setAttribute("aria-pressed", on);
  at("grip").textContent = on ? "suction on" : "suction off";
}

// Waits for the chunk under way, so that no press is lost.
async function restart() {
  setPlaying(false);
  tapped.clear();
  while (busy) await pause(15);
  await exchange(reset);
}

function next() {
  const count = about.starts[at("role").value];
  at("number").value = ((at("number").valueAsNumber || 0) + 1) % count;
  return restart();
}

// ---- curves

function line(values, top, span, name) {
  const points = values.map((v, t) => `${(320 * (t + 1)) / span},${118 - (114 * v) / top}`);
  return `<polyline class="${name}" points="${points.join(" ")}"/>`;
}

function draw() {
  const span = Math.max(about.horizon, curves.error.length);
  const x = (320 * about.horizon) / span;
  const frame = `<line x1="0" x2="320" y1="118" y2="118"/>
    <line class="end" x1="${x}" x2="${x}" y1="0" y2="120"/>`;
  const top = Math.max(20, ...curves.error);
  at("error-chart").innerHTML = frame + line(curves.error, top, span, "imagined");
  const y = 118 - 114 * about.threshold;
  at("success-chart").innerHTML = frame +
    `<line class="bound" x1="0" x2="320" y1="${y}" y2="${y}"/>` +
    line(curves.real, 1, span, "real") + line(curves.imagined, 1, span, "imagined");
}

// ---- hands

const COMMANDS = {
  KeyR: restart, KeyN: next, KeyP: () => setPlaying(!playing),
  Period: () => exchange(step), Space: () => setGrip(!gripping),
};

function onKey(event) {
  const typing = ["INPUT", "SELECT"].includes(event.target.tagName);
  if (typing || event.ctrlKey || event.metaKey || event.altKey || !episode) return;
  const pressing = event.target.tagName === "BUTTON" && event.code === "Space";
  if (event.code in MOVES) press(event.code, MOVES[event.code]);
  else if (event.code in COMMANDS && !pressing && !event.repeat) COMMANDS[event.code]();
  else return;
  event.preventDefault();
}

function press(name, move) {
  keys.set(name, move);
  tapped.set(name, move);
}

function hold(button, move) {
  const release = () => { keys.delete(button.id); button.classList.remove("held"); };
  button.addEventListener("pointerdown", (event) => {
    button.setPointerCapture(event.pointerId);
    press(button.id, move);
    button.classList.add("held");
  });
  for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) {
    button.addEventListener(end, release);
  }
}

function moveStick(event) {
  const box = at("stick").getBoundingClientRect();
  const radius = box.width / 2;
  const x = (event.clientX - box.left - radius) / radius;
  const y = (event.clientY - box.top - radius) / radius;
  const length = Math.max(1, Math.hypot(x, y));
  setStick(x / length, -y / length);
}

function setStick(right, away) {
  stick[0] = right;
  stick[1] = away;
  const radius = at("stick").clientWidth / 2;
  at("knob").style.transform = `translate(${right * radius}px, ${-away * radius}px)`;
}

function listen() {
  document.addEventListener("keydown", onKey);
  document.addEventListener("keyup", (event) => keys.delete(event.code));
  // No event says that a key was released in another window.
  window.addEventListener("blur", () => keys.clear());
  hold(at("up"), [2, 1]);
  hold(at("down"), [2, -1]);
  const area = at("stick");
  area.addEventListener("pointerdown", (event) => {
    area.setPointerCapture(event.pointerId);
    moveStick(event);
  });
  area.addEventListener("pointermove", (event) => {
    if (area.hasPointerCapture(event.pointerId)) moveStick(event);
  });
  for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) {
    area.addEventListener(end, () => setStick(0, 0));
  }
  // What has been chosen gives the keys back to the hand.
  document.addEventListener("change", (event) => event.target.blur());
  at("step").addEventListener("click", () => exchange(step));
  at("play").addEventListener("click", () => setPlaying(!playing));
  at("reset").addEventListener("click", restart);
  at("next").addEventListener("click", next);
  at("grip").addEventListener("click", () => setGrip(!gripping));
  at("number").addEventListener("change", restart);
  at("role").addEventListener("change", () => { at("number").value = 0; restart(); });
}

function introduce() {
  at("run").textContent = `run ${about.run}, task ${about.task}, chunks of ${about.chunk} actions`;
  for (const policy of about.policies) {
    for (const side of SIDES) at(`${side}-driver`).add(new Option(`policy ${policy}`, policy));
  }
  for (const [role, count] of Object.entries(about.starts)) {
    at("role").add(new Option(`${role} (${count})`, role));
  }
  at("lift").hidden = about.action_dim < 3;
  at("grip").hidden = about.action_dim < 4;
}

async function main() {
  listen();
  await exchange(async () => {
    about = await call("about");
    introduce();
    await reset();
  });
  if (about) drive();
}

main();
