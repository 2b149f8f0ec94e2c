// The map's own background where no operator has named tiles: a grid of degrees and the names of places.
import { styleOf } from "./dom.js";
import { makeCanvasLayer, world } from "./points.js";

const STEPS = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 45];
const WANTED_PX = 130;
const DISTRICTS_FROM = 11;
const EDGE = 0.1 / 1.2; // of the canvas, which is larger than the map by a tenth on each side

export const makeGrid = (L) => makeCanvasLayer(L, lines, { pane: "grid" });

export function makeNames(L, places) {
  const named = [
    ...places.cities.map((place) => ({ ...place, city: true, at: world(place.lat_deg, place.lon_deg) })),
    ...places.districts.map((place) => ({ ...place, city: false, at: world(place.lat_deg, place.lon_deg) })),
  ];
  return makeCanvasLayer(L, (context, view) => names(context, view, named), { pane: "names" });
}

function lines(context, { origin, size, scale }) {
  const perDegree = scale / 360;
  const step = STEPS.find((degrees) => degrees * perDegree >= WANTED_PX) ?? 45;
  const digits = Math.max(0, Math.ceil(-Math.log10(step)));
  context.strokeStyle = styleOf("--grid");
  context.fillStyle = styleOf("--grid-words");
  context.lineWidth = 1;
  context.font = `10.5px ${styleOf("--font")}`;
  const west = (origin.x / scale - 0.5) * 360;
  const east = ((origin.x + size.x) / scale - 0.5) * 360;
  context.beginPath();
  for (let lon = Math.ceil(west / step) * step; lon <= east; lon += step) {
    const x = Math.round(world(0, lon)[0] * scale - origin.x) + 0.5;
    context.moveTo(x, 0);
    context.lineTo(x, size.y);
    context.fillText(degrees(lon, digits, "E", "W"), x + 4, size.y * EDGE + 14);
  }
  const north = latitude(origin.y / scale);
  const south = latitude((origin.y + size.y) / scale);
  for (let lat = Math.ceil(south / step) * step; lat <= north; lat += step) {
    const y = Math.round(world(lat, 0)[1] * scale - origin.y) + 0.5;
    context.moveTo(0, y);
    context.lineTo(size.x, y);
    context.fillText(degrees(lat, digits, "N", "S"), size.x * EDGE + 5, y - 4);
  }
  context.stroke();
}

const latitude = (y) => (Math.atan(Math.sinh(Math.PI * (1 - 2 * y))) * 180) / Math.PI;

function degrees(value, digits, plus, minus) {
  const side = Math.abs(value) < 1e-9 ? "" : value > 0 ? plus : minus;
  return `${Math.abs(value).toFixed(digits)}° ${side}`;
}

function names(context, { origin, size, zoom, scale }, named) {
  const taken = [];
  context.textAlign = "center";
  context.lineJoin = "round";
  for (const place of named) {
    if (!place.city && zoom < DISTRICTS_FROM) continue;
    if (place.city && zoom >= 15) continue;
    const x = place.at[0] * scale - origin.x;
    const y = place.at[1] * scale - origin.y;
    if (x < 0 || y < 0 || x > size.x || y > size.y) continue;
    context.font = place.city ? `600 ${zoom < 7 ? 12 : 15}px ${styleOf("--font")}` : `500 11px ${styleOf("--font")}`;
    const half = context.measureText(place.name).width / 2 + 6;
    const high = place.city ? 12 : 8;
    const box = [x - half, y - high, x + half, y + high];
    if (taken.some((other) => box[0] < other[2] && box[2] > other[0] && box[1] < other[3] && box[3] > other[1])) continue;
    taken.push(box);
    context.strokeStyle = styleOf("--map");
    context.lineWidth = 3.5;
    context.strokeText(place.name, x, y + 4);
    context.fillStyle = styleOf(place.city ? "--city" : "--grid-words");
    context.fillText(place.name, x, y + 4);
  }
  context.textAlign = "start";
}
