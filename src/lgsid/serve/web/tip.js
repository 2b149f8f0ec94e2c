// What a token means, beside whatever is pointed at or focused.
import { byId, el } from "./dom.js";
import { distance, number, t } from "./i18n.js";
import { NO_TOKEN } from "./colours.js";

const GAP = 14;

export function swatch(colours, code) {
  const node = el("i", { class: "swatch", "aria-hidden": "true" });
  node.style.setProperty("--token", colours.get(code) ?? NO_TOKEN);
  return node;
}

export const tokenOf = (sid) => Number.parseInt(sid, 10);

export const labelOf = (token) => token?.label ?? t("token.unnamed");

const percent = (share) => `${Math.min(share < 1 ? 99 : 100, Math.round(share * 100))} %`;

function shares(pairs) {
  return pairs.map(([name, share]) => `${name} ${percent(share)}`).join(", ");
}

export function meaning(token, colours) {
  if (!token) return el("p", {}, t("token.unnamed"));
  const rows = [];
  const fact = (key, words) => words && rows.push(el("dt", {}, t(key)), el("dd", {}, words));
  const region = token.regions ?? {};
  if (token.place) fact("token.where", shares(region.city ?? region.province ?? []));
  for (const name of ["categories", "brands", "words"]) fact(`token.${name}`, shares(token[name] ?? []));
  fact("token.examples", (token.examples ?? []).slice(0, 2).join("; "));
  const size = [t("token.items", { n: number(token.items) })];
  if (token.place) size.push(t("token.radius", { km: distance(token.radius_km) }));
  return el("div", { class: "meaning" },
    el("p", { class: "token-name" }, swatch(colours, token.code), el("span", {}, t("token.title", { code: token.code }))),
    el("p", { class: "token-label" }, labelOf(token)),
    el("p", { class: "quiet" }, size.join(" · ")),
    el("dl", {}, rows));
}

// Beside a point; above the box it belongs to where there is no room below
export function showTip(content, x, y, box = null) {
  const tip = byId("tip");
  tip.replaceChildren(...[content].flat());
  tip.hidden = false;
  const { offsetWidth: wide, offsetHeight: high } = tip;
  const left = x + GAP + wide > innerWidth ? Math.max(8, x - GAP - wide) : x + GAP;
  const above = box && y + GAP + high > innerHeight ? box.top - high - 6 : y + GAP;
  const top = Math.min(Math.max(8, above), Math.max(8, innerHeight - high - 8));
  tip.style.left = `${left}px`;
  tip.style.top = `${top}px`;
}

export function hideTip() {
  byId("tip").hidden = true;
}

// Shows on hover and on focus, and goes with Escape
export function withTip(node, content, beside = false) {
  const show = () => {
    const box = node.getBoundingClientRect();
    if (beside) showTip(content(), box.right, box.top - GAP);
    else showTip(content(), box.left, box.bottom - GAP + 6, box);
  };
  node.setAttribute("aria-describedby", "tip");
  for (const name of ["mouseenter", "focus"]) node.addEventListener(name, show);
  for (const name of ["mouseleave", "blur"]) node.addEventListener(name, hideTip);
  node.addEventListener("keydown", (event) => event.key === "Escape" && hideTip());
  return node;
}
