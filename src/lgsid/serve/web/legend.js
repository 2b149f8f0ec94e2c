// First tokens in view: hover or focus tells what one means and shows it alone; a click keeps it so.
import { byId, el, narrow } from "./dom.js";
import { number, t } from "./i18n.js";
import { labelOf, meaning, swatch, withTip } from "./tip.js";

const FEW = 8;
let all = false;
let folded = null;

// context: { token(code), colours(), alone(code | null), picked(), pick(code), sample() }
export function drawLegend(counts, context) {
  folded ??= narrow();
  const legend = byId("legend");
  const focused = document.activeElement?.dataset?.token;
  const codes = [...counts].filter(([code]) => code >= 0).sort((one, other) => other[1] - one[1] || one[0] - other[0]);
  const shown = all ? codes : codes.slice(0, FEW);
  const fold = el("button", { type: "button", class: "fold", "aria-expanded": String(!folded), "aria-controls": "legend-list", title: t("legend.fold"), onclick: () => {
    folded = !folded;
    drawLegend(counts, context);
    byId("legend").querySelector(".fold").focus();
  } }, el("span", {}, t("legend.title")), el("span", { class: "quiet" }, number(codes.length)));
  legend.replaceChildren(fold);
  if (folded) return;
  if (!codes.length) legend.append(el("p", { class: "quiet" }, t("legend.none")));
  legend.append(el("ul", { id: "legend-list" }, shown.map(([code, count]) => el("li", {}, entry(code, count, context)))));
  if (codes.length > FEW) {
    legend.append(el("button", { type: "button", class: "link", onclick: () => {
      all = !all;
      drawLegend(counts, context);
    } }, all ? t("legend.less") : t("legend.more", { n: number(codes.length - FEW) })));
  }
  if (context.sample()) legend.append(el("p", { class: "quiet" }, t("map.sample", context.sample())));
  if (focused) legend.querySelector(`[data-token="${focused}"]`)?.focus();
}

function entry(code, count, context) {
  const button = el("button", { type: "button", "data-token": code, "aria-pressed": String(context.picked() === code), onclick: () => context.pick(code) },
    swatch(context.colours(), code), el("span", { class: "name" }, labelOf(context.token(code))), el("span", { class: "quiet" }, number(count)));
  withTip(button, () => meaning(context.token(code), context.colours()), !narrow());
  for (const name of ["mouseenter", "focus"]) button.addEventListener(name, () => context.alone(code));
  for (const name of ["mouseleave", "blur"]) button.addEventListener(name, () => context.alone(null));
  return button;
}
