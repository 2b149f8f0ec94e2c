// Answers as lists: one, two beside each other, and what stands there when there is none.
import { byId, el, narrow } from "./dom.js";
import { modelWords } from "./form.js";
import { distance, number, t } from "./i18n.js";
import { meaning, swatch, tokenOf, withTip } from "./tip.js";

export const say = (words) => {
  byId("status").textContent = words;
};

// A SID, which tells what its first token means
export function sidChip(sid, context) {
  const code = tokenOf(sid);
  const chip = el("button", { type: "button", class: "sid", onclick: () => context.pick(code) },
    swatch(context.colours(), code), sid);
  return withTip(chip, () => meaning(context.token(code), context.colours()), !narrow());
}

export function showAnswer(answer, context) {
  const items = answer.items.map((item, rank) => row(item, rank, context));
  byId("results").replaceChildren(
    el("div", { class: "head" },
      el("h2", {}, t("results.head", { n: number(answer.items.length), reachable: number(answer.reachable) })),
      el("p", { class: "quiet" }, t("results.how", { model: modelWords(answer.model), ms: number(answer.milliseconds.total, 1) }))),
    answer.note && answer.items.length ? el("p", { class: "note" }, answer.note) : "",
    el("ol", { class: "answer" }, items));
}

function row(item, rank, context) {
  const over = (yes) => context.over(rank, yes);
  return el("li", { "data-rank": rank, onmouseenter: () => over(true), onmouseleave: () => over(false), onfocusin: () => over(true), onfocusout: () => over(false) },
    el("span", { class: "rank", "aria-hidden": "true" }, String(rank + 1)),
    el("div", { class: "what" },
      el("button", { type: "button", class: "title", onclick: () => context.select(item) }, item.title),
      el("p", { class: "facts" }, [item.category?.split(">").pop().split(/[|;]/)[0].trim(), distance(item.distance_km)].filter(Boolean).join(" · ")),
      el("p", { class: "reason" }, item.reason)),
    sidChip(item.sid, context));
}

export function showEmpty(words, ...actions) {
  byId("results").replaceChildren(el("div", { class: "empty" }, el("p", {}, words), actions.length ? el("div", { class: "row" }, actions) : ""));
  say(words);
}

export function showNothing(answer, { farther, clear, filtered }) {
  const actions = [el("button", { type: "button", id: "farther", onclick: farther }, t("empty.farther"))];
  if (filtered) actions.push(el("button", { type: "button", onclick: clear }, t("empty.filters")));
  showEmpty(t("empty.none"), actions);
  byId("results").firstChild.firstChild.after(el("p", { class: "quiet" }, answer.note));
  say(`${t("empty.none")} ${answer.note}`);
}

export function errorWords(error) {
  if (error.status === 0) return [t("error.unreachable"), t("error.unreachable.fix")];
  if (error.status === 401) return [t("error.key"), t("error.key.fix")];
  if (error.status === 429 || error.status === 503) return [t("error.busy"), t("error.busy.fix")];
  return [error.message, error.fix ?? ""];
}

export function showError(error, again) {
  const [words, fix] = errorWords(error);
  byId("results").replaceChildren(el("div", { class: "error", role: "alert" },
    el("h2", {}, t("error.title")), el("p", {}, words), fix ? el("p", {}, fix) : "",
    el("button", { type: "button", id: "again", onclick: again }, t("error.again"))));
  say(`${words} ${fix}`);
}

const median = (values) => {
  const sorted = values.slice().sort((one, other) => one - other);
  const middle = sorted.length >> 1;
  return sorted.length ? (sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2) : 0;
};

export function showNeighbours(item, before, after, aligned, context) {
  const shared = new Set(before.map((one) => one.item_id).filter((id) => after.some((other) => other.item_id === id)));
  const far = [before, after].map((found) => median(found.map((other) => other.distance_km)));
  const side = (found, name, km) => {
    const same = found.filter((other) => tokenOf(other.sid) === tokenOf(item.sid)).length;
    return el("section", { class: `side ${name}`, "aria-label": t(`neighbours.${name}`) },
      el("h3", {}, t(`neighbours.${name}`)),
      el("p", { class: "figure" }, el("strong", {}, distance(km)), el("span", {}, t("neighbours.median"))),
      el("p", { class: "figure" }, el("strong", {}, `${same}/${found.length}`), el("span", {}, t("neighbours.token"))),
      el("ol", {}, found.map((other) => small(other, context, shared.has(other.item_id) ? t("neighbours.both") : ""))));
  };
  byId("results").replaceChildren(
    el("div", { class: "head one" }, el("p", { class: "quiet" }, t("neighbours.of")), el("h2", {}, item.title), sidChip(item.sid, context)),
    aligned ? "" : el("p", { class: "note" }, t("neighbours.unaligned")),
    el("div", { class: "sides" }, side(before, "before", far[0]), side(after, "after", far[1])));
  say(t("neighbours.status", { n: after.length, before: distance(far[0]), after: distance(far[1]) }));
}

function small(item, context, mark, rise = "") {
  return el("li", { onmouseenter: () => context.point?.(item, true), onmouseleave: () => context.point?.(item, false) },
    el("button", { type: "button", class: "title", onclick: () => context.select(item) }, item.title),
    el("p", { class: "facts" }, distance(item.distance_km), mark ? el("span", { class: `mark ${rise}` }, mark) : ""),
    sidChip(item.sid, context));
}

export function showPair(answers, names, context) {
  const ids = answers.map((answer) => answer.items.map((item) => item.item_id));
  const shared = ids[0].filter((id) => ids[1].includes(id)).length;
  const most = Math.max(...ids.map((list) => list.length));
  const side = (answer, at) => el("section", { class: `side ${at ? "second" : "first"}`, "aria-label": names[at] },
    el("h3", {}, names[at]),
    el("p", { class: "quiet" }, t("rankers.ms", { ms: number(answer.milliseconds.total, 1) })),
    el("ol", {}, answer.items.map((item, rank) => {
      const other = ids[1 - at].indexOf(item.item_id);
      const [words, kind] = other < 0 ? [t("rankers.only"), "only"] : other === rank ? [t("rankers.same"), ""] : other > rank
        ? [t("rankers.up", { n: other - rank }), "up"] : [t("rankers.down", { n: rank - other }), "down"];
      return small(item, context, words, kind);
    })));
  byId("results").replaceChildren(el("div", { class: "head" }, el("h2", {}, t("rankers.shared", { n: shared, k: most }))),
    el("div", { class: "sides" }, answers.map(side)));
  say(t("rankers.status", { n: shared, k: most }));
}
