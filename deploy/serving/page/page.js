"use strict";

const by = (id) => document.getElementById(id);
const percent = (share) => `${(100 * share).toFixed(1)} %`;
let asked = 0; // numbers the questions, so that a slow answer never replaces a newer one

async function showModel() {
  by("origin").textContent = location.origin;
  const response = await fetch("about");
  const about = await response.json();
  if (!response.ok) throw new Error(about.error);
  const texts = about.task === "text";
  document.title = `${about.name}: classify a ${texts ? "text" : "picture"}`;
  by("drop").hidden = texts;
  by("write").hidden = !texts;
  if (texts) {
    by("item").textContent = "text";
    by("similar-items").textContent = "texts";
    by("arguments").textContent = `--json '{"text": "…"}'`;
  }
  by("name").textContent = about.name;
  const share = about.collected_share;
  by("kept").textContent = share ? `; ${+(100 * share).toPrecision(2)} % of all ${texts ? "texts" : "pictures"} are kept there for up to 30 days, to improve the model` : ", and is not kept";
  by("about").textContent = `version ${about.version}, ${about.labels.length} classes`;
}

async function classify(body, type) {
  const question = ++asked;
  by("drop").classList.add("busy");
  by("result").setAttribute("aria-busy", "true");
  const started = performance.now();
  try {
    const response = await fetch("classify", {
      method: "POST",
      headers: { "Content-Type": type },
      body,
    });
    const answer = await response.json();
    if (!response.ok) throw new Error(answer.error);
    if (question === asked) {
      showAnswer(answer, performance.now() - started);
      offerReasons(body, type, question);
    }
  } catch (error) {
    if (question === asked) showProblem(error);
  } finally {
    if (question === asked) {
      by("drop").classList.remove("busy");
      by("result").setAttribute("aria-busy", "false");
    }
  }
}

function classifyPicture(file) {
  if (by("drop").hidden) return;
  showPicture(file);
  classify(file, "application/octet-stream");
}

function classifyText() {
  if (by("write").reportValidity()) classify(JSON.stringify({ text: by("text").value }), "application/json");
}

function showPicture(file) {
  const picture = by("picture");
  URL.revokeObjectURL(picture.src);
  picture.src = URL.createObjectURL(file);
  picture.alt = file.name || "the pasted picture";
  picture.hidden = false;
  by("drop").classList.add("filled");
}

function showAnswer(answer, elapsed_ms) {
  by("problem").hidden = true;
  by("result").hidden = false;
  by("label").textContent = answer.label;
  by("probability").textContent = percent(answer.probability);
  by("unfamiliar").hidden = answer.familiar !== false;
  by("classes").replaceChildren(...answer.classes.map(row));
  const size = answer.image ? `${answer.image.width_px} × ${answer.image.height_px} px, ` : "";
  by("about").textContent = by("about").textContent.replace(/^version \d+/, `version ${answer.version}`);
  by("detail").textContent = `${size}answered in ${Math.round(elapsed_ms)} ms by version ${answer.version}`;
}

function row({ label, probability }) {
  const name = Object.assign(document.createElement("span"), { textContent: label });
  const share = Object.assign(document.createElement("span"), { textContent: percent(probability) });
  const bar = Object.assign(document.createElement("progress"), { max: 1, value: probability });
  bar.setAttribute("aria-label", `${label}: ${percent(probability)}`);
  const item = document.createElement("li");
  item.append(name, share, bar);
  return item;
}

function showProblem(error) {
  by("result").hidden = true;
  by("problem").hidden = false;
  by("problem").textContent = reasonOf(error);
}

function reasonOf(error) {
  return error instanceof TypeError ? "The server can’t be reached." : error.message;
}

const drop = by("drop");
by("file").addEventListener("change", (event) => {
  const [file] = event.target.files;
  event.target.value = ""; // so that the same file can be chosen again
  if (file) classifyPicture(file);
});
by("write").addEventListener("submit", (event) => {
  event.preventDefault();
  classifyText();
});
by("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) classifyText();
});
by("picture").addEventListener("error", () => {
  by("picture").hidden = true; // not one that the browser can show: the server says what is wrong with it
  drop.classList.remove("filled");
});
for (const type of ["dragenter", "dragover"]) {
  document.addEventListener(type, (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
}
for (const type of ["dragleave", "drop"]) {
  document.addEventListener(type, (event) => {
    event.preventDefault();
    drop.classList.remove("over");
  });
}
document.addEventListener("drop", (event) => {
  const [file] = event.dataTransfer.files;
  if (file) classifyPicture(file);
});
document.addEventListener("paste", (event) => {
  const [file] = event.clipboardData.files;
  if (file) classifyPicture(file);
});
showModel().catch(showProblem);
