"use strict";

// "Why this answer?": asked for only when it is opened, and once for each answer.
let answered = null; // what was answered last: { body, type, question }

function offerReasons(body, type, question) {
  answered = { body, type, question };
  by("why").open = false;
  by("reasons").hidden = true;
  by("why-problem").textContent = "";
}

async function showReasons() {
  if (!by("why").open || !answered || answered.asked) return;
  const { body, type, question } = answered;
  answered.asked = true;
  by("why-problem").textContent = "Looking …";
  by("why").setAttribute("aria-busy", "true");
  try {
    const response = await fetch("explain", { method: "POST", headers: { "Content-Type": type }, body });
    const explanation = await response.json();
    if (!response.ok) throw new Error(explanation.error);
    if (question === asked) fillReasons(explanation);
  } catch (error) {
    if (question === asked) {
      by("why-problem").textContent = reasonOf(error);
      answered.asked = false; // closed and opened again, it asks again
    }
  } finally {
    by("why").setAttribute("aria-busy", "false");
  }
}

function fillReasons(explanation) {
  const { label, heat_map, words, nearest, nearest_missing, image } = explanation;
  by("why-problem").textContent = "";
  by("reasons").hidden = false;
  for (const each of document.querySelectorAll(".of-label")) each.textContent = label;
  by("evidence").hidden = !heat_map;
  by("by-word").hidden = !words.length;
  by("no-heat").hidden = Boolean(heat_map || words.length);
  if (heat_map) by("layers").replaceChildren(...layers(image, heat_map, label));
  by("words").replaceChildren(...shaded(words).flatMap((word) => [word, " "]));
  by("near").hidden = !nearest.length;
  by("near").className = nearest.some((near) => near.text) ? "texts" : "";
  by("near").replaceChildren(...nearest.map(similar));
  by("no-near").textContent = nearest_missing || (nearest.length ? "" : "There are none.");
}

function layers({ width_px, height_px }, heat_map, label) {
  const picture = by("picture");
  const heat = Object.assign(document.createElement("img"), { src: heat_map, className: "heat" });
  heat.alt = `where the evidence for ${label} lies`;
  by("layers").style.setProperty("--ratio", width_px / height_px);
  if (picture.hidden) return [heat]; // the browser can't show it, the server can read it
  return [Object.assign(document.createElement("img"), { src: picture.src, alt: "" }), heat];
}

function shaded(words) {
  const most = Math.max(0, ...words.map(({ weight }) => weight));
  return words.map(({ word, weight }) => {
    const item = Object.assign(document.createElement("span"), { textContent: word });
    item.style.setProperty("--shade", `${most > 0 ? Math.round((100 * Math.max(weight, 0)) / most) : 0}%`);
    return item;
  });
}

function similar({ label, picture, text }) {
  const item = document.createElement("li");
  const name = Object.assign(document.createElement("b"), { textContent: label, title: label });
  if (text) {
    item.append(Object.assign(document.createElement("q"), { textContent: text }), name);
    return item;
  }
  const frame = Object.assign(document.createElement("span"), { className: "small" });
  if (picture) frame.append(Object.assign(document.createElement("img"), { src: picture, alt: `labelled ${label}` }));
  else frame.textContent = "can’t be read any more";
  item.append(frame, name);
  return item;
}

by("why").addEventListener("toggle", showReasons);
