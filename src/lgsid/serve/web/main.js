// The page: loads the catalogue, then asks the service whenever the form or the map changes.
import * as api from "./api.js";
import { cardItem, closeCard, openCard } from "./card.js";
import { tokenColours } from "./colours.js";
import { byId, calm, el, later, narrow } from "./dom.js";
import { clearFilters, drawForm, modelWords } from "./form.js";
import { languageNow, number, setLanguage, t, translate } from "./i18n.js";
import { drawLegend } from "./legend.js";
import { ItemMap } from "./map.js";
import { say, showAnswer, showEmpty, showError, showNeighbours, showNothing, showPair } from "./results.js";
import { startSearch } from "./search.js";
import { filtersOn, history, modelsOf, reachKm, request, state } from "./state.js";
import { hideTip, meaning, showTip, tokenOf } from "./tip.js";

const dark = matchMedia("(prefers-color-scheme: dark)");
const NEIGHBOURS = 10;
let settings, start, tokens, items, rowOf, colours, map;
let picked = null;
let running = null;

const context = {
  token: (code) => tokens.get(code),
  colours: () => colours,
  titleOf: (id) => (rowOf.has(id) ? items.title[rowOf.get(id)] : id),
  centre: () => map?.centre() ?? state.place,
  changed,
  select: (item) => select(item),
  over: (rank, yes) => map?.highlight(rank, yes),
  picked: () => picked,
  sample: () => (items.item_id.length < items.inside ? { n: number(items.item_id.length), total: number(items.inside) } : null),
  pick(code) {
    picked = picked === code ? null : code;
    map?.points.show({ token: picked });
    legend();
  },
  alone: (code) => map?.points.show({ token: code ?? picked }),
  place: () => state.place,
};

// --- Loading ---------------------------------------------------------------------------------------------------------
async function load() {
  say(t("loading"));
  byId("results").replaceChildren();
  try {
    settings = await api.settings();
    if (settings.key_needed && !api.hasKey()) throw new api.ApiError(401, "key");
    let listed;
    [start, listed, items] = await Promise.all([api.start(), api.tokens(), api.items()]);
    tokens = new Map(listed.map((token) => [token.code, token]));
  } catch (error) {
    if (error.status === 401) byId("key").hidden = false;
    return showError(error, load);
  }
  byId("key").hidden = true;
  index();
  prepare();
  drawMap();
  drawForm(byId("ask"), formContext());
  legend();
  performance.mark("useful");
  document.documentElement.dataset.ready = "yes";
  startSearch({ place: () => state.place, select: (item) => select(item, true) });
  refresh();
}

function index() {
  rowOf = new Map(items.item_id.map((id, row) => [id, row]));
}

function prepare() {
  state.radiusKm = Math.min(state.radiusKm, settings.radius_km, settings.most_radius_km);
  colours = tokenColours([...tokens.values()], dark.matches);
  const city = start.cities[0];
  const user = start.users[0];
  if (user) [state.who, state.place] = ["sample:0", { lat: user.lat_deg, lon: user.lon_deg }];
  else if (city) state.place = { lat: city.lat_deg, lon: city.lon_deg };
  const all = modelsOf(start).map((one) => `${one.mode}:${one.model}`);
  state.pair = [all[0], all[1] ?? all[0]];
}

const formContext = () => ({ ...context, start, settings });

function drawMap() {
  if (!window.L) return noMap();
  map = new ItemMap(window.L, byId("map"), settings, start, {
    place: (at) => moveTo({ lat: at.lat, lon: at.lng ?? at.lon }),
    item: (row) => select(itemAt(row)),
    over(row, x, y) {
      const code = items.token[row];
      showTip([el("p", { class: "tip-title" }, items.title[row]), meaning(tokens.get(code), colours)], x, y);
    },
    out: hideTip,
    moved,
  });
  map.points.load(items);
  map.recolour(colours);
  if (state.place) map.showPlace(state.place, reachKm(start.travel) * 1000, true);
}

function noMap() {
  byId("map").replaceChildren(el("div", { class: "empty" }, el("p", {}, t("error.map")), el("p", {}, el("code", {}, t("error.map.fix")))));
}

const moved = later(60, async () => {
  if (items.inside < items.total || items.item_id.length < items.total) {
    const box = map.map.getBounds().pad(0.2);
    const bounded = (value, most) => Math.max(-most, Math.min(most, value));
    try {
      items = await api.items({ south: bounded(box.getSouth(), 90), west: bounded(box.getWest(), 180), north: bounded(box.getNorth(), 90), east: bounded(box.getEast(), 180) });
      index();
      map.points.load(items);
    } catch {
      // the dots that are there stay; the next request tells what is wrong
    }
  }
  legend();
});

function legend() {
  if (map) drawLegend(map.points.tokensIn(map.map.getBounds()), context);
}

// --- Asking ----------------------------------------------------------------------------------------------------------
const soon = later(140, () => refresh());

function changed(what) {
  if (what === "reach") {
    map?.showPlace(state.place, reachKm(start.travel) * 1000, false);
    return soon();
  }
  drawKeepingFocus();
  if (state.place && what !== "model") map?.showPlace(state.place, reachKm(start.travel) * 1000, what === "place" || what === "who");
  refresh();
}

function drawKeepingFocus() {
  const { id, name, value } = document.activeElement ?? {};
  drawForm(byId("ask"), formContext());
  const again = id ? byId(id) : name ? byId("ask").querySelector(`[name="${name}"][value="${value}"]`) : null;
  again?.focus({ preventScroll: true });
}

function moveTo(place) {
  state.place = place;
  if (state.tab === "neighbours") show("recommend");
  else changed("place");
}

async function refresh() {
  running?.abort();
  const own = (running = new AbortController());
  map?.points.show({ chosen: new Set(start ? history(start) : []) });
  const view = byId("view");
  view.setAttribute("aria-busy", "true");
  try {
    await { recommend, neighbours, rankers }[state.tab](own.signal);
  } catch (error) {
    if (own.signal.aborted) return;
    if (!(error instanceof api.ApiError)) throw error;
    if (error.status === 401) byId("key").hidden = false;
    map?.clear();
    showError(error, refresh);
  } finally {
    if (running === own) view.removeAttribute("aria-busy");
  }
}

const colourOf = (sid) => colours.get(tokenOf(sid)) ?? "gray";
const onPins = {
  select: (item) => select(item),
  over(rank) {
    byId("results").querySelector(`[data-rank="${rank}"]`)?.classList.add("raised");
  },
  out(rank) {
    byId("results").querySelector(`[data-rank="${rank}"]`)?.classList.remove("raised");
  },
};

async function recommend(signal) {
  if (!state.place) return showEmpty(t("empty.start"));
  const answer = await api.recommend(request(start, languageNow()), signal);
  map?.showAnswer(answer.items, colourOf, onPins);
  if (!answer.items.length) return showNothing(answer, { farther, clear, filtered: filtersOn() > 0 });
  showAnswer(answer, context);
  say(t("status.found", {
    n: number(answer.items.length), reachable: number(answer.reachable), model: modelWords(answer.model),
    ms: number(answer.milliseconds.total, 1), title: answer.items[0].title,
  }));
}

function farther() {
  if (state.how === "radius") state.radiusKm = Math.min(settings.most_radius_km, 50, state.radiusKm * 3);
  else if (state.minutes >= 60) [state.how, state.radiusKm] = ["radius", Math.min(settings.most_radius_km, 10)];
  else state.minutes = Math.min(60, state.minutes * 2);
  changed("how");
}

function clear() {
  clearFilters();
  changed("filters");
}

async function neighbours(signal) {
  if (!state.item) {
    map?.clear();
    return showEmpty(t("neighbours.empty"));
  }
  const found = await Promise.all([false, true].map((aligned) => api.similar(state.item.item_id, NEIGHBOURS, aligned, signal)));
  const [before, after] = found.map((one) => one.items);
  map?.showNeighbours(state.item, before, after);
  showNeighbours(state.item, before, after, start.aligned, context);
}

async function rankers(signal) {
  if (!state.place) return showEmpty(t("empty.start"));
  const all = modelsOf(start);
  const chosen = state.pair.map((name) => all.find((one) => `${one.mode}:${one.model}` === name));
  const answers = await Promise.all(chosen.map((one) => api.recommend(request(start, languageNow(), one), signal)));
  map?.showAnswer(answers[0].items, colourOf, onPins);
  const first = new Set(answers[0].items.map((item) => item.item_id));
  map?.ringAlso(answers[1].items.filter((item) => !first.has(item.item_id)));
  if (!answers.some((answer) => answer.items.length)) return showNothing(answers[0], { farther, clear, filtered: filtersOn() > 0 });
  showPair(answers, chosen.map((one) => modelWords(one.name)), context);
}

// --- Selecting -------------------------------------------------------------------------------------------------------
function itemAt(row) {
  const category = items.category[row];
  return {
    item_id: items.item_id[row], title: items.title[row], category: category < 0 ? null : items.categories[category],
    sid: items.sid[row], place: { lat_deg: items.lat_deg[row], lon_deg: items.lon_deg[row] },
  };
}

function select(item, move = false) {
  hideTip();
  const place = { lat: item.place.lat_deg, lon: item.place.lon_deg };
  if (move) map?.go(place, 13);
  if (state.tab === "neighbours") {
    state.item = item;
    return refresh();
  }
  openCard(item, {
    colours: () => colours,
    inHistory: (id) => history(start).includes(id),
    here: () => moveTo(place),
    add(added) {
      if (state.who !== "chosen") state.chosen = history(start).map((id) => ({ item_id: id, title: context.titleOf(id) }));
      state.who = "chosen";
      state.chosen.push({ item_id: added.item_id, title: added.title });
      changed("model");
    },
    neighbours(of) {
      state.item = of;
      closeCard();
      show("neighbours");
    },
  });
}

function show(tab) {
  state.tab = tab;
  for (const button of document.querySelectorAll("[role=tab]")) {
    const on = button.dataset.tab === tab;
    button.setAttribute("aria-selected", String(on));
    button.tabIndex = on ? 0 : -1;
  }
  byId("view").setAttribute("aria-labelledby", `tab-${tab}`);
  document.body.dataset.tab = tab;
  closeCard();
  if (!start) return;
  byId("results").replaceChildren();
  drawForm(byId("ask"), formContext());
  if (tab !== "neighbours" && state.place) map?.showPlace(state.place, reachKm(start.travel) * 1000, true);
  refresh();
}

function words() {
  translate();
  document.title = `lgsid · ${t("subtitle")}`;
  if (!start) return;
  drawForm(byId("ask"), formContext());
  map?.words();
  legend();
  if (cardItem()) closeCard();
  if (!window.L) noMap();
  refresh();
}

// --- Beginning -------------------------------------------------------------------------------------------------------
byId("ask").addEventListener("submit", async (event) => {
  event.preventDefault();
  await refresh();
  if (narrow()) byId("results").scrollIntoView({ behavior: calm() ? "auto" : "smooth" });
});
byId("key").addEventListener("submit", (event) => {
  event.preventDefault();
  api.setKey(byId("key-text").value);
  if (start) {
    byId("key").hidden = true;
    refresh();
  } else {
    load();
  }
});
for (const button of document.querySelectorAll("[data-language]")) {
  button.addEventListener("click", () => {
    setLanguage(button.dataset.language);
    words();
  });
}
const tabs = [...document.querySelectorAll("[role=tab]")];
for (const [at, button] of tabs.entries()) {
  button.addEventListener("click", () => show(button.dataset.tab));
  button.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const next = tabs[(at + step + tabs.length) % tabs.length];
    next.focus();
    show(next.dataset.tab);
  });
}
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  hideTip();
  closeCard();
});
dark.addEventListener("change", () => {
  if (!start) return;
  colours = tokenColours([...tokens.values()], dark.matches);
  map?.recolour(colours);
  legend();
  refresh();
});
words();
show("recommend");
load();
