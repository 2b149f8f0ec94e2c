// Search by words: a list under the field that the arrow keys walk through.
import * as api from "./api.js";
import { byId, el, later } from "./dom.js";
import { distance, t } from "./i18n.js";
import { errorWords } from "./results.js";

const FOUND = 8;
let running = null;

// context: { place(), select(item) }
export function startSearch(context) {
  const form = byId("search");
  const text = byId("search-text");
  const close = () => {
    byId("search-found").hidden = true;
    text.setAttribute("aria-expanded", "false");
  };
  const look = later(180, () => find(text.value.trim(), context, close));
  text.addEventListener("input", look);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    find(text.value.trim(), context, close);
  });
  form.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      close();
      text.focus();
    }
    if (event.key !== "ArrowDown" && event.key !== "ArrowUp") return;
    const stops = [text, ...form.querySelectorAll("#search-found button")];
    const at = stops.indexOf(document.activeElement) + (event.key === "ArrowDown" ? 1 : -1);
    event.preventDefault();
    stops[Math.min(stops.length - 1, Math.max(0, at))].focus();
  });
  document.addEventListener("pointerdown", (event) => form.contains(event.target) || close());
  form.addEventListener("focusout", (event) => event.relatedTarget && !form.contains(event.relatedTarget) && close());
}

async function find(words, context, close) {
  running?.abort();
  if (!words) return close();
  running = new AbortController();
  const list = byId("search-found");
  let content;
  try {
    const { items } = await api.search(words, context.place(), FOUND, running.signal);
    content = items.length ? el("ul", { "aria-label": t("search.label") }, items.map((item) => el("li", {}, el("button", { type: "button", onclick: () => {
      close();
      context.select(item);
    } }, el("span", {}, item.title), el("span", { class: "quiet" }, item.distance_km === null ? item.category ?? "" : distance(item.distance_km)))))) : el("p", { role: "status" }, t("search.none"));
  } catch (error) {
    if (error.name === "AbortError") return;
    content = el("p", { role: "alert" }, errorWords(error).join(" "));
  }
  list.replaceChildren(content);
  list.hidden = false;
  byId("search-text").setAttribute("aria-expanded", "true");
}
