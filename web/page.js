// The page around its program: forms in, results out. The numbers are the program's.

import init, { Page } from "./program/double_routing_web.js";

const find = (selector) => document.querySelector(selector);
const made = (tag, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
};

const adapterLine = find("#adapter");
const WHERE = "Chrome and Edge 113, Safari 26 and Firefox 141 have it, or newer; on Linux it may have to be switched on "
  + "(chrome://flags/#enable-unsafe-webgpu), and the page must come from https or from localhost.";

let page;
let languages;
let colours = [];
let busy = false;

/** Runs one piece of work at a time; what it throws is shown where its result would be. */
async function during(status, work) {
  if (busy) return;
  busy = true;
  status.classList.remove("bad");
  const buttons = [...document.querySelectorAll("form button:not(#stop), #samples button")];
  buttons.forEach((button) => { button.disabled = true; });
  try {
    await work((stage) => { status.textContent = `${stage} …`; });
    status.textContent = "";
  } catch (error) {
    status.classList.add("bad");
    status.textContent = error.message ?? String(error);
  } finally {
    busy = false;
    buttons.forEach((button) => { button.disabled = false; });
  }
}

function seconds(value) {
  if (value >= 1) return `${value.toFixed(2)} s`;
  if (value >= 1e-3) return `${(1e3 * value).toFixed(value < 1e-2 ? 2 : 1)} ms`;
  return `${(1e6 * value).toFixed(0)} µs`;
}

const small = (value) => (value === null ? "not finite" : value.toExponential(2));
const shape = (sizes) => `[${sizes.join(", ")}]`;

function fill(list, facts) {
  list.replaceChildren(...facts.flatMap(([name, ...value]) => [made("dt", { textContent: name }), made("dd", {}, ...value)]));
}

/** Background and ink of a level, for light and for dark screens. */
function paint(element, level) {
  const [[light, lightInk], [dark, darkInk]] = colours[level];
  element.style.background = level === 0 ? "none" : `light-dark(${light}, ${dark})`;
  element.style.color = level === 0 ? "inherit" : `light-dark(${lightInk}, ${darkInk})`;
}

function timing({ first, median, runs, device }) {
  const clock = device === null ? "" : `; ${seconds(device)} by the GPU’s own clock`;
  return `${seconds(median)} from input to result, the median of ${runs} runs (the first ${seconds(first)}, with compiling)${clock}`;
}

function verdict({ passed, error, allowed, yardstick, worst, fault, seconds: spent }) {
  const word = made("span", { className: passed ? "passed" : "failed", textContent: passed ? "within its bound" : "NOT within its bound" });
  const rest = `: ${small(error)} of the signal, allowed ${small(allowed)} (plain f32 loops on the CPU have ${small(yardstick)}); `
    + `worst element ${worst === null ? "∞" : worst.toFixed(3)} of its bound${fault ? `; ${fault}` : ""}. The reference took ${seconds(spent)}.`;
  return [word, rest];
}

function facts(evaluation) {
  const { layer, order, x, y, w, check } = evaluation;
  return [
    ["layer", layer],
    ["shapes", `x ${shape(x)}, y ${shape(y)}, w ${shape(w)}`],
    ["order of maps", order],
    ["time", timing(evaluation)],
    ["error of y", ...verdict(check)],
  ];
}

function showTold(told) {
  const rows = told.guesses.slice(0, 3).map(({ name, label, probability }) => made("tr", {},
    made("td", { textContent: `${(100 * probability).toFixed(2)} %` }),
    made("td", { textContent: `${name} (${label})` }),
    made("td", {}, made("meter", { value: probability, ariaLabel: name }))));
  find("#told tbody").replaceChildren(...rows);
  const letters = told.characters.map(([character, share, level]) => {
    const letter = made("span", { textContent: character, title: `${share.toFixed(2)} of an even share` });
    paint(letter, level);
    letter.classList.toggle("faint", share < 0.5);
    return letter;
  });
  find("#heat").replaceChildren(...letters);
  fill(find("#told dl"), facts(told.evaluation));
  find("#told").hidden = false;
  find("#told").result = told;
}

const tell = (text) => during(find("#told-status"), async (stage) => {
  if (text === "") throw new Error("Type a text first.");
  showTold(JSON.parse(await languages.tell(text, stage)));
});

function drawStrip({ rows, positions, levels }) {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches ? 1 : 0;
  const canvas = find("#strip");
  canvas.width = Math.max(1, ...levels.map((row) => row.length));
  canvas.height = Math.max(1, levels.length);
  canvas.style.height = `${Math.min(320, Math.max(24, 10 * levels.length))}px`;
  const context = canvas.getContext("2d");
  levels.forEach((row, y) => row.forEach((level, x) => {
    context.fillStyle = colours[level][dark][0];
    context.fillRect(x, y, 1, 1);
  }));
  find("figcaption").textContent = positions === 1
    ? "Every weight is 1: each softmax is over one token."
    : `Routing weights: ${levels.length} of ${rows} rows, each over ${positions} positions, by multiples of an even share.`;
}

const forward = () => during(find("#ran-status"), async (stage) => {
  const [weights, input] = ["#weights", "#input"].map((selector) => find(selector).files[0]);
  if (!weights) throw new Error("Choose a file of weights first.");
  const of = input ?? weights;
  const bytes = async (file) => new Uint8Array(await file.arrayBuffer());
  const ran = await page.forward(weights.name, await bytes(weights), of.name, await bytes(of), stage);
  const { strip, evaluation } = JSON.parse(ran.report());
  fill(find("#ran dl"), facts(evaluation));
  drawStrip(strip);
  matchMedia("(prefers-color-scheme: dark)").onchange = () => drawStrip(strip);
  const link = find("#download");
  URL.revokeObjectURL(link.href);
  link.href = URL.createObjectURL(new Blob([ran.file()], { type: "application/octet-stream" }));
  ran.free();
  find("#ran").hidden = false;
  find("#ran").result = evaluation;
});

const check = () => during(find("#check-status"), async (stage) => {
  const checks = page.checks(find("#filter").value);
  const count = checks.count();
  if (count === 0) throw new Error(`No check has '${find("#filter").value}' in its name.`);
  const [bar, stop, list] = [find("#checked"), find("#stop"), find("#checks ul")];
  const kernels = new Map();
  let [stopped, passed, done] = [false, 0, 0];
  stop.onclick = () => { stopped = true; };
  [bar.max, bar.hidden, stop.hidden] = [count, false, false];
  list.replaceChildren();
  find("#checks").hidden = false;
  for (; done < count && !stopped; done += 1) {
    const row = JSON.parse(await checks.run(done));
    const kernel = kernels.get(row.kernel) ?? { passed: 0, count: 0, worst: 0 };
    kernel.count += 1;
    kernel.passed += row.passed;
    kernel.worst = Math.max(kernel.worst, row.worst ?? Infinity);
    kernels.set(row.kernel, kernel);
    passed += row.passed;
    if (!row.passed) list.append(made("li", { className: "failed", textContent: `${row.name}: ${row.fault ?? "beyond its bound"}` }));
    bar.value = done + 1;
    stage(`${done + 1} of ${count}: ${row.name}`);
  }
  stop.hidden = true;
  checks.free();
  const worst = Math.max(...[...kernels.values()].map((kernel) => kernel.worst));
  find("#checks tbody").replaceChildren(...[...kernels].map(([name, kernel]) => made("tr", {},
    made("td", { textContent: name }),
    made("td", { textContent: `${kernel.passed} of ${kernel.count}` }),
    made("td", { textContent: kernel.worst.toFixed(3) }))));
  const line = `${passed} of ${done} passed, the worst at ${worst.toFixed(3)} of its bound`;
  list.prepend(made("li", { className: passed === done ? "passed" : "failed", textContent: line }));
  find("#checks").result = { passed, done, count, worst };
});

/** Buttons with sentences that the model was not trained on, a language each. */
function offerSamples(names, table) {
  const sentences = table.trimEnd().split("\n").map((line) => line.split("\t"));
  const buttons = names.map(([label, name]) => {
    // Those of a line's length, one after the other.
    const own = sentences.filter(([of, , text]) => of === label && text.length >= 24 && text.length <= 72);
    let next = 0;
    return made("button", {
      type: "button",
      textContent: name,
      lang: label.replace("_", "-"),
      onclick: () => {
        const text = own[next % own.length][2];
        next += 1;
        find("#text").value = text;
        tell(text);
      },
    });
  });
  find("#samples").replaceChildren(...buttons);
}

function offerLegend() {
  const scale = [1, 1.4, 2, 2.8, 4, 5.6, 8].map((share) => {
    const cell = made("span", { textContent: share });
    paint(cell, Math.round((colours.length - 1) * Math.log(share) / Math.log(8)));
    return cell;
  });
  find(".scale").replaceChildren(...scale);
}

function listen() {
  const submit = (form, work) => find(form).addEventListener("submit", (event) => { event.preventDefault(); work(); });
  submit("#tell", () => tell(find("#text").value));
  submit("#forward", forward);
  submit("#check", check);
  find("#text").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); tell(find("#text").value); }
  });
  const drop = find("#forward");
  const over = (on) => (event) => { event.preventDefault(); drop.classList.toggle("over", on); };
  drop.addEventListener("dragover", over(true));
  drop.addEventListener("dragleave", over(false));
  drop.addEventListener("drop", (event) => {
    over(false)(event);
    const files = [...event.dataTransfer.files];
    // Of two, the one that is named for it, or else the first, has the weights.
    files.sort((a, b) => /^(x|input)/i.test(a.name) - /^(x|input)/i.test(b.name));
    [["#weights", files[0]], ["#input", files[1] ?? files[0]]].filter(([, file]) => file).forEach(([selector, file]) => {
      const transfer = new DataTransfer();
      transfer.items.add(file);
      find(selector).files = transfer.files;
    });
    forward();
  });
}

async function download(name) {
  const answer = await fetch(name);
  if (!answer.ok) throw new Error(`${name}: the server says ${answer.status}`);
  return answer;
}

async function open() {
  if (!navigator.gpu) throw new Error(`This browser has no WebGPU. ${WHERE}`);
  const adapter = await navigator.gpu.requestAdapter();
  if (!adapter) throw new Error(`This browser has WebGPU, but no GPU it would use: its driver may be missing or blocked. ${WHERE}`);
  await init();
  page = await Page.open();
  colours = JSON.parse(page.colours());
  const { class: kind, timestamps, limits } = JSON.parse(page.device());
  const { vendor, architecture, device, description } = adapter.info;
  const name = [description || device, vendor, architecture].filter((part) => part).join(" · ") || "a GPU without a name";
  adapterLine.textContent = `On ${name} (${kind}).`;
  fill(find("#limits dl"), [...limits.map(([what, value]) => [what, value.toLocaleString("en")]), ["clock of its own", timestamps ? "yes" : "no"]]);
  find("#limits").hidden = false;
  const [model, table] = await Promise.all([
    download("languages.safetensors").then((answer) => answer.arrayBuffer()),
    download("held_out.tsv").then((answer) => answer.text()),
  ]);
  languages = await page.languages(new Uint8Array(model));
  offerLegend();
  offerSamples(JSON.parse(languages.names()), table);
  listen();
  document.querySelectorAll(":disabled").forEach((element) => { element.disabled = false; });
  document.body.dataset.state = "ready";
}

open().catch((error) => {
  adapterLine.classList.add("bad");
  adapterLine.textContent = error.message ?? String(error);
  document.body.dataset.state = "refused";
});
