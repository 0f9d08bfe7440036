// Sends each image or text on its own, a few at a time (the server computes them together), and shows its classes.
"use strict";

const AT_ONE_TIME = 4;
const results = document.getElementById("results");
const status = document.getElementById("status");
const form = document.getElementById("form");
const chooser = document.getElementById("files");
const textForm = document.getElementById("text-form");
const maps = document.getElementById("maps");
const boxes = [document.getElementById("text"), document.getElementById("pair")];
let limits = { max_request_mb: Infinity };
const waiting = [];
let running = 0;
let done = 0;

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

async function answer(response) {
  let body;
  try {
    body = await response.json();
  } catch {
    throw new Error(`the server answered with status ${response.status}`);
  }
  if (!response.ok) throw new Error(body.error.message);
  return body;
}

async function showModel() {
  try {
    limits = await answer(await fetch("model"));
    const classes = limits.class_names.length;
    document.getElementById("name").textContent = limits.name;
    document.title = limits.name;
    document.getElementById("facts").textContent =
      `${limits.engine}, ${limits.precision} · ${classes} class${classes === 1 ? "" : "es"}`;
    (limits.kind === "text" ? textForm : form).hidden = false;
    document.getElementById("maps-line").hidden = !limits.maps;
    document.getElementById("text-limits").textContent =
      `up to ${limits.max_characters} characters each; Ctrl and Enter predict too`;
    document.getElementById("limits").textContent =
      `up to ${limits.max_request_mb} MB and ${limits.max_megapixels} million pixels each`;
  } catch (error) {
    status.textContent = `The server can't be reached: ${error.message}`;
  }
}

function add(card, title, request) {
  card.setAttribute("aria-busy", "true");
  const side = element("div");
  side.append(element("h2", "", title), element("p", "wait", "waiting"));
  card.append(side);
  results.prepend(card);
  waiting.push({ request, card, side });
}

function take(files) {
  if (limits.kind !== "image") return;
  for (const file of files) {
    const card = element("article");
    const picture = element("img");
    picture.alt = file.name;
    const address = URL.createObjectURL(file);
    picture.onload = picture.onerror = () => URL.revokeObjectURL(address);
    picture.src = address;
    card.append(picture);
    add(card, file.name, () => {
      if (file.size > limits.max_request_mb * 1e6 - 1000) {
        throw new Error(`the file is larger than ${limits.max_request_mb} MB`);
      }
      const body = new FormData();
      body.append("images", file, file.name);
      return { body };
    });
  }
  next();
}

function takeTexts() {
  const [text, pair] = boxes.map((box) => box.value);
  const body = JSON.stringify({ texts: [pair ? [text, pair] : text] });
  const title = pair ? `${text} | ${pair}` : text;
  add(element("article", "text"), title, () => ({ body, headers: { "Content-Type": "application/json" } }));
  next();
}

function next() {
  while (running < AT_ONE_TIME && waiting.length) {
    running += 1;
    const one = waiting.shift();
    predict(one).finally(() => {
      one.card.setAttribute("aria-busy", "false");
      running -= 1;
      done += 1;
      next();
    });
  }
  const left = running + waiting.length;
  status.textContent = left ? `${left} to go` : done ? `${done} ${limits.kind}${done === 1 ? "" : "s"} answered` : "";
}

async function predict({ request, card, side }) {
  const wait = side.querySelector(".wait");
  try {
    const { predictions } = await answer(await fetch("predict", { method: "POST", ...request() }));
    const [row] = predictions;
    wait.before(row.names.length ? bars(row) : element("p", "", `${row.value}`));
    if (maps.checked && limits.maps) await explain(request, card, wait);
  } catch (error) {
    const fault = element("p", "fault", error.message);
    fault.setAttribute("role", "alert");
    wait.before(fault);
  }
  wait.remove();
}

async function explain(request, card, wait) {
  const { explanations } = await answer(await fetch("explain", { method: "POST", ...request() }));
  const [row] = explanations;
  const said = `what speaks for ${row.name || "a greater number"} (${row.method})`;
  if (row.picture) {
    const bytes = Uint8Array.from(atob(row.picture), (letter) => letter.charCodeAt(0));
    const picture = element("img");
    picture.alt = said;
    picture.src = URL.createObjectURL(new Blob([bytes], { type: "image/jpeg" }));
    picture.onload = () => URL.revokeObjectURL(picture.src);
    card.querySelector("img").after(picture);
    card.classList.add("explained");
  }
  wait.before(element("p", "seen", said));
  for (const pieces of row.words || []) {
    const line = element("p", "map");
    line.dir = "auto";
    for (const { text, value } of pieces) {
      if (value === null) {
        line.append(text);
        continue;
      }
      const word = element("span", "", text);
      // Linearly from blue, the weakest, to green.
      word.style.background = `color-mix(in srgb, rgb(92 219 116) ${100 * value}%, rgb(59 95 192))`;
      word.style.color = value > 0.47 ? "black" : "white";
      line.append(word);
    }
    wait.before(line);
  }
}

function bars(row) {
  const list = element("ol");
  row.names.forEach((name, place) => {
    const share = row.probabilities[place];
    const item = element("li");
    const bar = element("div", "bar");
    const filled = element("div");
    filled.style.width = `${100 * share}%`;
    bar.setAttribute("aria-hidden", "true"); // the number beside the name says it
    bar.append(filled);
    item.append(element("span", "name", name), element("span", "share", `${(100 * share).toFixed(2)} %`), bar);
    list.append(item);
  });
  return list;
}

chooser.addEventListener("change", () => {
  take(chooser.files);
  chooser.value = ""; // so that the same file can be chosen again
});
form.addEventListener("submit", (event) => event.preventDefault());
textForm.addEventListener("submit", (event) => {
  event.preventDefault();
  takeTexts();
});
for (const box of boxes) {
  box.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) textForm.requestSubmit();
  });
}
// Anywhere on the page: a file dropped beside the frame would replace the page otherwise.
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    form.classList.toggle("over", kind === "dragover");
    if (kind === "drop") take(event.dataTransfer.files);
  });
}
document.addEventListener("paste", (event) => take(event.clipboardData.files));
showModel();
