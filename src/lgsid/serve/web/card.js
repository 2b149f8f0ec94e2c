// The item that was selected: what it is, what its SID means, and what can be done with it.
import * as api from "./api.js";
import { byId, el } from "./dom.js";
import { distance, number, t } from "./i18n.js";
import { swatch, tokenOf } from "./tip.js";

let before = null;
let shown = null;

// context: { colours(), inHistory(id), here(item), add(item), neighbours(item) }
export async function openCard(item, context) {
  const card = byId("card");
  if (card.hidden) before = document.activeElement;
  shown = item;
  const tokens = el("ol", { class: "tokens" });
  const known = context.inHistory(item.item_id);
  const add = el("button", { type: "button", id: "card-add", disabled: known, onclick: () => {
    context.add(item);
    add.disabled = true;
    add.textContent = t("card.added");
  } }, t(known ? "card.added" : "card.add"));
  const facts = [item.category, Number.isFinite(item.distance_km) ? t("results.away", { km: distance(item.distance_km) }) : ""];
  card.replaceChildren(
    el("button", { type: "button", class: "close", "aria-label": t("card.close"), onclick: closeCard }, "×"),
    el("h2", { tabindex: "-1" }, item.title),
    el("p", { class: "facts" }, facts.filter(Boolean).join(" · ")),
    item.reason ? el("p", { class: "reason" }, item.reason) : "",
    el("p", { class: "code" }, swatch(context.colours(), tokenOf(item.sid)), el("span", { class: "quiet" }, t("card.sid")), el("code", {}, item.sid)),
    tokens,
    el("div", { class: "row actions" }, add,
      el("button", { type: "button", id: "card-here", onclick: () => context.here(item) }, t("card.here")),
      el("button", { type: "button", id: "card-neighbours", onclick: () => context.neighbours(item) }, t("card.neighbours"))));
  card.hidden = false;
  card.querySelector("h2").focus({ preventScroll: true });
  try {
    const told = await api.explain(item.sid);
    if (shown !== item) return;
    tokens.replaceChildren(...told.tokens.map((text, at) => level(text, at)));
  } catch {
    tokens.remove(); // the SID stands above; what its tokens mean is an extra
  }
}

// The service tells a meaning as text; its numbers are put into the reader's language
function level(text, at) {
  const [head, ...lines] = text.split("\n").map((line) => line.trim());
  const [, label, size] = head.match(/^(.*?)\s*(\(.*\))?$/);
  const count = size?.match(/([\d,]+) item/)?.[1].replaceAll(",", "");
  const radius = size?.match(/radius ([\d.]+) km/)?.[1];
  const facts = [count && t("token.items", { n: number(Number(count)) }), radius && t("token.radius", { km: distance(Number(radius)) })];
  const [, kind, shares] = lines[0]?.match(/^(categories|brands): (.*)$/) ?? [];
  return el("li", {}, el("span", { class: "quiet" }, t("card.token", { n: at + 1 })), el("strong", {}, label),
    el("span", { class: "quiet" }, facts.filter(Boolean).join(" · ")),
    shares && at > 0 ? el("span", { class: "quiet" }, `${t(`token.${kind}`)}: ${shares.split(", ").slice(0, 3).join(", ")}`) : "");
}

export function closeCard() {
  const card = byId("card");
  if (card.hidden) return;
  card.hidden = true;
  shown = null;
  if (before?.isConnected) before.focus({ preventScroll: true });
}

export const cardItem = () => shown;
