// What is asked for. The form writes it, requests are made from it.
export const state = {
  tab: "recommend",
  place: null, // { lat, lon }
  who: "nobody", // nobody, chosen, id, or sample:N
  userId: "",
  chosen: [], // { item_id, title }, oldest first
  how: "radius",
  radiusKm: 3,
  minutes: 20,
  filters: { category: "", brand: "", price_min: "", price_max: "", open_now: false, new_only: false },
  mode: "ranker",
  model: "",
  pair: ["", ""],
  item: null, // whose neighbours are looked at
  k: 20,
};

export const LEAST_KM = 0.2;
export const MOST_MINUTES = 60;

// As the crow flies, kilometres
export function reachKm(travel) {
  if (state.how === "radius") return state.radiusKm;
  const { speed_kmh: speed, detour } = travel[state.how];
  return ((state.minutes / 60) * speed) / detour;
}

export function history(start) {
  if (state.who === "chosen") return state.chosen.map((item) => item.item_id);
  if (state.who.startsWith("sample:")) return start.users[Number(state.who.slice(7))]?.history ?? [];
  return [];
}

// Options of a comparison: every model alone, and the first two together
export function modelsOf(start) {
  const rankers = start.rankers.map((name) => ({ mode: "ranker", model: name, name }));
  const generators = start.generators.map((name) => ({ mode: "generative", model: name, name }));
  const both = start.rankers.length && start.generators.length
    ? [{ mode: "both", model: `${start.rankers[0]}+${start.generators[0]}`, name: `${start.rankers[0]} + ${start.generators[0]}` }]
    : [];
  return [...rankers, ...generators, ...both];
}

function newOnly() { // of somebody: nobody has been anywhere
  return state.filters.new_only && state.who !== "nobody";
}

export function filtersOn() {
  const { category, brand, price_min: low, price_max: high, open_now: open } = state.filters;
  return [category, brand, low !== "" || high !== "", open, newOnly()].filter(Boolean).length;
}

export function request(start, language, chosen = { mode: state.mode, model: state.model }) {
  const { category, brand, price_min: low, price_max: high, open_now: open } = state.filters;
  const filters = { open_now: open, new_only: newOnly() };
  if (category) filters.category = category;
  if (brand) filters.brand = brand;
  if (low !== "") filters.price_min = Number(low);
  if (high !== "") filters.price_max = Number(high);
  const reach = state.how === "radius" ? { radius_km: state.radiusKm } : { travel_minutes: state.minutes, travel_mode: state.how };
  const body = {
    place: { lat_deg: state.place.lat, lon_deg: state.place.lon }, reach, k: state.k, filters, language, mode: chosen.mode,
  };
  if (chosen.model) body.model = chosen.model;
  if (state.who === "id" && state.userId) body.user_id = state.userId;
  else if (state.who !== "nobody" && state.who !== "id") body.history = history(start);
  return body;
}
