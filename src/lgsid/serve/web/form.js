// The form: place, user, reach, filters and model. Every change is told at once.
import { el } from "./dom.js";
import { distance, number, t } from "./i18n.js";
import { LEAST_KM, MOST_MINUTES, filtersOn, history, modelsOf, state } from "./state.js";

const WAYS = ["radius", "walk", "bike", "transit", "car"];
const STEPS = 100;

// context: { start, settings, titleOf(id), changed(what), centre() }
export function drawForm(form, context) {
  const folded = form.querySelector("details")?.open ?? false;
  form.hidden = state.tab === "neighbours";
  form.setAttribute("aria-label", t("panel"));
  if (form.hidden) return form.replaceChildren();
  form.replaceChildren(
    placeField(context), whoField(context), reachField(context),
    state.tab === "rankers" ? pairField(context) : modelField(context),
    filterField(context, folded),
    el("button", { class: "primary", id: "go" }, t("recommend")),
  );
}

function field(title, id, ...content) {
  return el("div", { class: "field" }, el("label", { for: id }, title), content);
}

const option = (value, words, chosen) => el("option", { value, selected: value === chosen }, words);

export const coordinates = (place) => (place ? `${place.lat.toFixed(4)}, ${place.lon.toFixed(4)}` : "");

function placeField({ start, changed, centre }) {
  const cities = start.cities.slice().sort((one, other) => one.name.localeCompare(other.name));
  const city = cities.findIndex((one) => state.place && one.lat_deg === state.place.lat && one.lon_deg === state.place.lon);
  const choose = el("select", { id: "city", onchange: () => {
    const found = cities[Number(choose.value)];
    if (found) state.place = { lat: found.lat_deg, lon: found.lon_deg };
    changed("place");
  } }, option("", t("place.own"), String(city)), cities.map((one, at) => option(String(at), one.name, String(city))));
  if (city < 0) choose.value = "";
  const wrong = el("p", { class: "wrong", id: "coordinates-wrong", role: "alert" });
  const text = el("input", { id: "coordinates", inputmode: "text", value: coordinates(state.place), spellcheck: "false", "aria-describedby": "coordinates-wrong", onchange: () => {
    const [lat, lon] = text.value.split(/[,，;\s]+/).filter(Boolean).map(Number);
    const good = Math.abs(lat) <= 90 && Math.abs(lon) <= 180;
    text.setAttribute("aria-invalid", String(!good));
    wrong.textContent = good ? "" : t("place.wrong");
    if (!good) return;
    state.place = { lat, lon };
    changed("place");
  } });
  const here = el("button", { type: "button", class: "link", id: "centre", onclick: () => {
    state.place = centre();
    changed("place");
  } }, t("place.centre"));
  return el("fieldset", {}, el("legend", {}, t("place.title")), here, el("div", { class: "pair" },
    field(t("place.city"), "city", choose), field(t("place.coordinates"), "coordinates", text)), wrong);
}

function whoField(context) {
  const { start, changed } = context;
  const samples = start.users.map((user, at) => option(`sample:${at}`, t("who.sample", { id: user.user_id, n: user.history.length }), state.who));
  const choose = el("select", { id: "who", onchange: () => {
    state.who = choose.value;
    const user = start.users[Number(state.who.slice(7))];
    if (state.who.startsWith("sample:") && user) state.place = { lat: user.lat_deg, lon: user.lon_deg };
    changed("who");
  } },
  option("nobody", t("who.nobody"), state.who),
  samples.length ? el("optgroup", { label: t("who.samples") }, samples) : null,
  option("chosen", t("who.chosen"), state.who), option("id", t("who.id"), state.who));
  return el("fieldset", {}, el("legend", {}, t("who.title")), el("label", { for: "who", class: "unseen" }, t("who.title")), choose, whoMore(context));
}

function whoMore({ start, titleOf, changed }) {
  if (state.who === "id") {
    const text = el("input", { id: "user-id", value: state.userId, maxlength: 200, spellcheck: "false", "aria-label": t("who.id.label"), placeholder: t("who.id.label"), onchange: () => {
      state.userId = text.value.trim();
      changed("who");
    } });
    return text;
  }
  if (state.who === "nobody") return null;
  const ids = history(start);
  if (!ids.length) return el("p", { class: "quiet" }, t("who.none"));
  const chips = ids.map((id, at) => ({ id, at })).reverse().map(({ id, at }) => el("li", {}, titleOf(id),
    state.who === "chosen" && el("button", { type: "button", "aria-label": t("who.remove", { title: titleOf(id) }), onclick: () => {
      state.chosen.splice(at, 1);
      changed("who");
    } }, "×")));
  const clear = state.who === "chosen" && el("button", { type: "button", class: "link", onclick: () => {
    state.chosen = [];
    changed("who");
  } }, t("who.clear"));
  return el("div", { class: "visits" }, el("p", { class: "quiet" }, t("who.visits", { n: ids.length }), clear),
    el("ul", { class: "chips", tabindex: "0", "aria-label": t("who.visits", { n: ids.length }) }, chips));
}

// The radius grows by equal factors, so that both 300 m and 30 km can be met
function reachField({ settings, changed }) {
  const most = Math.min(50, settings.most_radius_km);
  const toKm = (at) => LEAST_KM * (most / LEAST_KM) ** (at / STEPS);
  const rounded = (km) => (km < 1 ? Math.round(km * 20) / 20 : km < 10 ? Math.round(km * 4) / 4 : Math.round(km));
  const radius = state.how === "radius";
  const words = () => (radius ? distance(state.radiusKm) : t("minutes", { n: number(state.minutes) }));
  const shown = el("output", { for: "reach" }, words());
  const at = radius ? (Math.log(state.radiusKm / LEAST_KM) / Math.log(most / LEAST_KM)) * STEPS : state.minutes;
  const slide = el("input", { type: "range", id: "reach", min: radius ? 0 : 5, max: radius ? STEPS : MOST_MINUTES, step: radius ? 1 : 5, value: String(Math.round(at)), "aria-label": t("reach.size"), "aria-valuetext": words(), oninput: () => {
    if (radius) state.radiusKm = Math.min(most, Math.max(LEAST_KM, rounded(toKm(Number(slide.value)))));
    else state.minutes = Number(slide.value);
    shown.textContent = words();
    slide.setAttribute("aria-valuetext", words());
    changed("reach");
  } });
  slide.value = String(Math.round(at)); // after min and max are known
  const ways = WAYS.map((way) => el("label", {}, el("input", { type: "radio", name: "how", value: way, checked: way === state.how, onchange: () => {
    state.how = way;
    changed("how");
  } }), el("span", {}, t(`reach.${way}`))));
  return el("fieldset", {}, el("legend", {}, t("reach.title")), shown, el("div", { class: "segments", role: "radiogroup", "aria-label": t("reach.how") }, ways), slide);
}

export const modelWords = (name) => (name === "popularity_nearness" ? t("model.popularity_nearness") : name);

function modelField({ start, changed }) {
  const modes = ["ranker", ...(start.generators.length ? ["generative", "both"] : [])];
  const names = modelsOf(start).filter((one) => one.mode === state.mode);
  const mode = el("select", { id: "mode", onchange: () => {
    state.mode = mode.value;
    state.model = "";
    changed("model");
  } }, modes.map((name) => option(name, t(`mode.${name}`), state.mode)));
  const model = el("select", { id: "model", onchange: () => {
    state.model = model.value;
    changed("model");
  } }, names.map((one) => option(one.model, modelWords(one.name), state.model || names[0].model)));
  return el("fieldset", {}, el("legend", {}, t("model.title")), el("div", { class: "pair" },
    field(t("model.mode"), "mode", mode), field(t("model.name"), "model", model)));
}

function pairField({ start, changed }) {
  const all = modelsOf(start);
  const selects = ["model.first", "model.second"].map((key, at) => {
    const choose = el("select", { id: `model-${at}`, onchange: () => {
      state.pair[at] = choose.value;
      changed("model");
    } }, all.map((one) => option(`${one.mode}:${one.model}`, modelWords(one.name), state.pair[at])));
    return field(t(key), `model-${at}`, choose);
  });
  return el("fieldset", {}, el("legend", {}, t("model.title")), el("div", { class: "pair" }, selects));
}

function filterField({ start, changed }, open) {
  const { filters } = state;
  const known = new Set(start.filters);
  const summary = el("summary", {}, el("span", {}, t("filters.title")), el("span", { class: "quiet" }, filtersOn() ? t("filters.some", { n: filtersOn() }) : t("filters.none")));
  const names = (id, list) => el("select", { id, onchange: (event) => {
    filters[id] = event.target.value;
    changed("filters");
  } }, option("", t("filters.any"), filters[id]), list.map((name) => option(name, name, filters[id])));
  const price = (id, key) => el("input", { id, type: "number", min: "0", step: "any", value: filters[id], placeholder: t(key), "aria-label": `${t("filters.price")} ${t(key)}`, onchange: (event) => {
    filters[id] = event.target.value;
    const wrong = filters.price_min !== "" && filters.price_max !== "" && Number(filters.price_min) > Number(filters.price_max);
    event.target.setAttribute("aria-invalid", String(wrong));
    event.target.setCustomValidity(wrong ? t("filters.prices") : "");
    if (wrong) event.target.reportValidity();
    else changed("filters");
  } });
  const check = (id, name, words) => el("label", { class: "check" }, el("input", { type: "checkbox", id, checked: filters[name], onchange: (event) => {
    filters[name] = event.target.checked;
    changed("filters");
  } }), t(words));
  return el("details", { class: "filters", open },
    summary,
    el("div", { class: "pair" },
      start.categories.length ? field(t("filters.category"), "category", names("category", start.categories.slice().sort())) : null,
      start.brands.length ? field(t("filters.brand"), "brand", names("brand", start.brands.slice().sort())) : null),
    el("div", { class: "pair" },
      known.has("price") ? field(t("filters.price"), "price_min", el("div", { class: "row" }, price("price_min", "filters.from"), price("price_max", "filters.to"))) : null,
      el("div", {},
        known.has("opening_hours") ? check("open", "open_now", "filters.open") : null,
        state.who === "nobody" ? null : check("new", "new_only", "filters.new"))),
    filtersOn() > 0 && el("button", { type: "button", class: "link", onclick: () => {
      clearFilters();
      changed("filters");
    } }, t("filters.clear")));
}

export function clearFilters() {
  state.filters = { category: "", brand: "", price_min: "", price_max: "", open_now: false, new_only: false };
}
