"use strict";

const by = (id) => document.getElementById(id);
const percent = (share) =>
  share < 0.01 ? "under 1\u00a0%" : share > 0.99 ? "over 99\u00a0%" : `${Math.round(100 * share)}\u00a0%`;
const capital = (text) => text[0].toUpperCase() + text.slice(1);
const isLikely = (card) => card.wrong === null || card.wrong > 0.5;
const DROP = "drop";
const DIGITS = "1234567890"; // of the first ten classes

let cards = [];
let labels = [];
let task = "image"; // of the items: image or text
let shown = 0; // the number of the card that is shown; as many as there are cards: the end
let busy = false;
const skipped = new Set(); // of this page only
const back = []; // numbers of the cards that were shown before

async function load() {
  const state = await asked("state");
  ({ cards, labels, task } = state);
  by("drop-text").textContent = `Drop the ${task}`;
  document.title = `${state.name}: review labels`;
  by("name").textContent = state.name;
  by("command").textContent = `headstart retrain ${quoted(state.source)} --name ${state.name}`;
  show(next(-1));
}

/* An answer of the server; a decision that another page made first is an answer, too. */
async function asked(path, body) {
  const options = body && {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  };
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("The server can’t be reached, so nothing is kept. Start `headstart review` again and open the address that it prints.");
  }
  const answer = await response.json();
  if (!response.ok && response.status !== 409) throw new Error(answer.error);
  return { ...answer, stale: response.status === 409 };
}

async function save(path, more) {
  const card = cards[shown];
  if (busy || !card) return null;
  busy = true;
  by("problem").hidden = true;
  try {
    const answer = await asked(path, { sha256: card.sha256, seen: card.seen, ...more });
    cards[shown] = answer.card;
    if (!answer.stale) return answer.card;
    const said = answer.card.decision ? inWords(answer.card) : "no decision any more";
    showProblem(`Meanwhile somebody else decided about this one (${said}), so yours was not kept.`);
    show(shown, false);
  } catch (error) {
    showProblem(error.message);
  } finally {
    busy = false;
  }
  return null;
}

async function decide(label) {
  if (await save("decide", { label })) move(next(shown));
}

async function undo() {
  const number = cards[shown]?.decision ? shown : latest();
  if (busy || number === null) return;
  if (number !== shown) move(number);
  if (await save("undo", {})) show(shown);
}

function skip() {
  if (shown >= cards.length) return;
  if (!cards[shown].decision) skipped.add(shown);
  move(next(shown));
}

/* The card that was decided last, here or on another page. */
function latest() {
  const lines = cards.map((card) => card.decision?.line ?? 0);
  const line = Math.max(0, ...lines);
  return line ? lines.indexOf(line) : null;
}

/* The first card behind `number` that nobody has looked at, then the first before it. */
function next(number) {
  const open = (card, at) => !card.decision && !skipped.has(at);
  const behind = cards.findIndex((card, at) => at > number && open(card, at));
  const any = behind >= 0 ? behind : cards.findIndex(open);
  return any >= 0 ? any : cards.length;
}

function move(number) {
  if (shown < cards.length) back.push(shown);
  by("problem").hidden = true;
  show(number);
}

function show(number, afresh = true) {
  shown = number;
  const card = cards[number];
  by("card").hidden = !card;
  by("end").hidden = Boolean(card);
  showProgress();
  if (!card) return showEnd();
  if (afresh) {
    showItem(card);
    window.scrollTo(0, 0);
    const following = cards[next(number)];
    if (following && task === "image") new Image().src = `item/large/${following.sha256}`;
  }
  by("question").textContent = card.wrong === null ? `“${card.label}” or “${card.suggested}”?` : `Is “${card.label}” right?`;
  by("why").textContent = reason(card);
  by("right-text").textContent = card.wrong === null ? card.label : `Right: ${card.label}`;
  by("suggest-text").textContent = card.suggested;
  by("decided").hidden = !card.decision;
  if (card.decision) by("decided").textContent = `Decided: ${inWords(card)}, by ${card.decision.by || "somebody"}`;
  for (const [id, label] of [["right", card.label], ["suggest", card.suggested], ["drop", DROP]]) {
    by(id).setAttribute("aria-pressed", String(card.decision?.label === label));
  }
  by("back").disabled = back.length === 0;
  by("undo").disabled = latest() === null;
  showAlike("copies", card);
  showAlike("neighbours", card);
}

function reason(card) {
  if (card.wrong === null) {
    const places = card.labels.map(({ label, path }) => `${path}: ${label}`).join("; ");
    const what = card.copies.length ? (task === "text" ? "The same words lie" : "The same picture lies") : `The very same ${task === "text" ? "text" : "file"} lies`;
    const all = card.copies.length ? "all of them are left out until you decide, which counts for all" : "it is left out until you decide";
    return `${what} in ${card.labels.length} classes (${places}), so ${all}.`;
  }
  const rather = `${card.suggested} (${percent(card.suggested_probability)}) rather than ${card.label} (${percent(card.probability)})`;
  return `${capital(percent(card.wrong))} likely wrong: a classifier that never saw it says ${rather}.`;
}

function inWords(card) {
  const { label } = card.decision;
  if (label === DROP) return "dropped";
  return label === card.label && card.wrong !== null ? `${label} is right` : `it is ${label}`;
}

function showItem(card) {
  const photo = by("photo");
  by("unseen").hidden = true;
  photo.hidden = task === "text";
  by("text").hidden = task === "image";
  if (task === "text") showText(by("text"), card.sha256, showUnseen);
  else {
    photo.alt = `labelled ${card.label}`;
    photo.src = `item/large/${card.sha256}`;
  }
  by("path").textContent = card.path;
  by("chip").hidden = !card.split || card.split === "train";
  by("chip").textContent = `held out: ${card.split}`;
}

const texts = new Map(); // by digest, so that one is asked for once

/* A text in its place, as soon as it is there and the place still wants it. */
async function showText(place, sha256, otherwise) {
  place.dataset.sha256 = sha256;
  place.textContent = texts.get(sha256) ?? "";
  if (texts.has(sha256)) return;
  const answer = await fetch(`item/large/${sha256}`).catch(() => null);
  if (answer?.ok) texts.set(sha256, await answer.text());
  if (place.dataset.sha256 !== sha256) return;
  if (answer?.ok) place.textContent = texts.get(sha256);
  else otherwise?.();
}

async function showUnseen() {
  const { sha256 } = cards[shown];
  by("photo").hidden = true;
  by("text").hidden = true;
  by("unseen").hidden = false;
  by("unseen").textContent = "It can’t be shown.";
  const answer = await fetch(`item/large/${sha256}`).then((response) => response.json()).catch(() => null);
  if (answer && cards[shown]?.sha256 === sha256) by("unseen").textContent = `It can’t be shown: ${answer.error}`;
}

function showAlike(id, card) {
  by(`${id}-part`).hidden = card[id].length === 0;
  const isDisputed = id === "copies" && card.wrong === null;
  if (id === "copies") by("copies-title").textContent = isDisputed ? "The same, and the label that it has there" : "A near copy under another label";
  by(id).classList.toggle("texts", task === "text");
  by(id).replaceChildren(
    ...card[id].map((image) => {
      const decided = (isDisputed ? card : cards.find((other) => other.sha256 === image.sha256))?.decision?.label;
      const label = decided && decided !== DROP ? decided : image.label;
      const picture = document.createElement(task === "text" ? "span" : "img");
      picture.title = image.path;
      if (task === "text") showText(picture, image.sha256);
      else Object.assign(picture, { src: `item/small/${image.sha256}`, alt: "" });
      const item = document.createElement("li");
      item.className = label === card.label ? "same" : label === card.suggested ? "suggested" : "";
      item.append(picture, Object.assign(document.createElement("b"), { textContent: label }));
      return item;
    }),
  );
}

function showProgress() {
  const likely = cards.filter(isLikely);
  const decided = (some) => some.filter((card) => card.decision).length;
  const more = cards.length - likely.length;
  const parts = [];
  if (likely.length) parts.push(`${decided(likely)} of ${likely.length} likely wrong`);
  if (more) parts.push(`${decided(cards) - decided(likely)} of ${more} less likely`);
  by("progress").textContent = parts.join(" · ");
  by("done").style.width = `${(100 * decided(cards)) / Math.max(cards.length, 1)}%`;
  by("mark").style.left = `${(100 * likely.length) / Math.max(cards.length, 1)}%`;
  by("mark").hidden = !likely.length || !more;
}

function showEnd() {
  const made = cards.map((card) => card.decision && (card.decision.label === DROP ? "dropped" : card.decision.label === card.label && card.wrong !== null ? "right" : "relabelled"));
  const count = (kind) => made.filter((each) => each === kind).length;
  const open = cards.length - made.filter(Boolean).length;
  by("end-title").textContent = cards.length === 0 ? "No label looks wrong." : open ? `${open} skipped, the rest is done.` : "All looked at.";
  by("end-text").textContent = `${count("right")} right, ${count("relabelled")} relabelled, ${count("dropped")} dropped. The next retrain takes them; give it the options that it had before:`;
  by("again").hidden = open === 0;
}

function showProblem(text) {
  by("problem").textContent = text;
  by("problem").hidden = false;
}

/* As a shell takes it. */
const quoted = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'"'"'`)}'`);

function choose() {
  if (!cards[shown]) return;
  by("filter").value = "";
  filter();
  by("classes").showModal();
  by("filter").focus();
}

function filter() {
  const wanted = by("filter").value.trim().toLowerCase();
  const found = labels.filter((label) => label.toLowerCase().includes(wanted));
  found.sort((one, other) => other.toLowerCase().startsWith(wanted) - one.toLowerCase().startsWith(wanted));
  by("choices").replaceChildren(
    ...found.map((label, at) => {
      const button = Object.assign(document.createElement("button"), { type: "button" });
      if (!wanted && at < 10) button.append(Object.assign(document.createElement("kbd"), { textContent: DIGITS[at] }));
      button.append(label);
      button.addEventListener("click", () => take(label));
      const item = document.createElement("li");
      item.append(button);
      return item;
    }),
  );
}

function take(label) {
  by("classes").close();
  decide(label);
}

by("filter").addEventListener("input", filter);
by("filter").addEventListener("keydown", (event) => {
  const first = by("choices").querySelector("button");
  const place = DIGITS.indexOf(event.key);
  if (event.key === "Enter") {
    event.preventDefault();
    first?.click();
  } else if (!by("filter").value && event.key.length === 1 && place >= 0 && place < labels.length) {
    event.preventDefault();
    take(labels[place]);
  }
});

const actions = {
  right: () => decide(cards[shown].label),
  suggest: () => decide(cards[shown].suggested),
  other: choose,
  drop: () => decide(DROP),
  back: () => back.length && show(back.pop()),
  undo,
  skip,
  close: () => by("classes").close(),
  again: () => {
    skipped.clear();
    show(next(-1));
  },
};
const KEYS = { r: "right", t: "suggest", c: "other", d: "drop", s: "skip", u: "undo", ArrowRight: "skip", ArrowLeft: "back" };
for (const [id, act] of Object.entries(actions)) by(id).addEventListener("click", act);
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || by("classes").open) return;
  const id = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  const needsCard = !["undo", "back"].includes(id);
  if (!id || (needsCard && !cards[shown])) return;
  event.preventDefault();
  if (!busy) actions[id]();
});
by("photo").addEventListener("error", showUnseen);
load().catch((error) => showProblem(error.message));
