// Items as dots on one canvas, drawn anew when the map has moved; thousands of them cost a few milliseconds.
import { NO_TOKEN } from "./colours.js";
import { styleOf } from "./dom.js";

const TAU = 2 * Math.PI;
const NEAR_PX = 10;

// Web Mercator, 0 … 1 from west to east and from north to south
export function world(lat, lon) {
  const sine = Math.min(0.9999, Math.max(-0.9999, Math.sin((lat * Math.PI) / 180)));
  return [lon / 360 + 0.5, 0.5 - Math.log((1 + sine) / (1 - sine)) / (4 * Math.PI)];
}

export function makeCanvasLayer(L, draw, options = {}) {
  // L.Renderer keeps a canvas in place while the map moves and zooms; what is on it is drawn here
  const Layer = L.Renderer.extend({
    options: { padding: 0.1, ...options },
    _initContainer() {
      this._container = document.createElement("canvas");
      this._context = this._container.getContext("2d");
    },
    _destroyContainer() {
      this._container.remove();
      this._container = null;
    },
    _update() {
      if (this._map._animatingZoom && this._bounds) return;
      L.Renderer.prototype._update.call(this);
      const size = this._bounds.getSize();
      const ratio = window.devicePixelRatio || 1;
      L.DomUtil.setPosition(this._container, this._bounds.min);
      this._container.width = Math.round(size.x * ratio);
      this._container.height = Math.round(size.y * ratio);
      this._container.style.width = `${size.x}px`;
      this._container.style.height = `${size.y}px`;
      this.redraw(ratio);
      this.fire("update");
    },
    _updatePaths() {},
    redraw(ratio = window.devicePixelRatio || 1) {
      if (!this._map || !this._bounds) return;
      const context = this._context;
      const { min } = this._bounds;
      const size = this._bounds.getSize();
      context.setTransform(ratio, 0, 0, ratio, 0, 0);
      context.clearRect(0, 0, size.x, size.y);
      const origin = this._map.getPixelOrigin().add(min);
      draw(context, { origin, size, zoom: this._zoom ?? this._map.getZoom(), scale: 256 * 2 ** (this._zoom ?? this._map.getZoom()) });
    },
  });
  return new Layer();
}

export class Points {
  // look: { colours, token, dimmed, chosen } — a token to show alone, whether dots stand back, ids of a history
  constructor(L) {
    this.count = 0;
    this.look = { colours: new Map(), token: null, dimmed: false, chosen: new Set() };
    this.layer = makeCanvasLayer(L, (context, view) => this.draw(context, view));
  }

  load(columns) {
    this.columns = columns;
    this.count = columns.item_id.length;
    this.x = new Float64Array(this.count);
    this.y = new Float64Array(this.count);
    const byToken = new Map();
    for (let row = 0; row < this.count; row++) {
      [this.x[row], this.y[row]] = world(columns.lat_deg[row], columns.lon_deg[row]);
      const token = columns.token[row];
      if (!byToken.has(token)) byToken.set(token, []);
      byToken.get(token).push(row);
    }
    this.byToken = byToken;
    this.layer.redraw();
  }

  show(look) {
    this.look = { ...this.look, ...look };
    this.layer.redraw();
  }

  draw(context, { origin, size, zoom, scale }) {
    if (!this.count) return;
    const radius = Math.min(6, Math.max(2, 1.6 + (zoom - 8) * 0.5));
    const { token: alone, dimmed, colours, chosen } = this.look;
    const inside = (x, y) => x > -8 && y > -8 && x < size.x + 8 && y < size.y + 8;
    const ring = styleOf("--map");
    const draw = (token, rows) => {
      const shown = alone === null || token === alone;
      context.beginPath();
      for (const row of rows) {
        const x = this.x[row] * scale - origin.x;
        const y = this.y[row] * scale - origin.y;
        if (!inside(x, y)) continue;
        context.moveTo(x + radius, y);
        context.arc(x, y, alone === token ? radius + 1 : radius, 0, TAU);
      }
      context.globalAlpha = !shown ? 0.1 : alone !== null ? 1 : dimmed ? 0.45 : 0.9;
      context.fillStyle = colours.get(token) ?? NO_TOKEN;
      context.fill();
      if (radius > 3) {
        context.lineWidth = 1;
        context.strokeStyle = ring;
        context.stroke();
      }
    };
    for (const [token, rows] of this.byToken) if (token !== alone) draw(token, rows);
    if (this.byToken.has(alone)) draw(alone, this.byToken.get(alone));
    context.globalAlpha = 1;
    this.ringed(context, chosen, (row) => [this.x[row] * scale - origin.x, this.y[row] * scale - origin.y], radius + 3);
  }

  ringed(context, chosen, at, radius) {
    if (!chosen.size) return;
    context.strokeStyle = styleOf("--ink");
    context.lineWidth = 1.5;
    for (let row = 0; row < this.count; row++) {
      if (!chosen.has(this.columns.item_id[row])) continue;
      context.beginPath();
      context.arc(...at(row), radius, 0, TAU);
      context.stroke();
    }
  }

  // Row of the dot at a place of the map, -1 where there is none
  at(map, point) {
    const scale = 256 * 2 ** map.getZoom();
    const origin = map.getPixelOrigin().add(map.containerPointToLayerPoint(point));
    let best = NEAR_PX ** 2;
    let found = -1;
    for (let row = 0; row < this.count; row++) {
      const away = (this.x[row] * scale - origin.x) ** 2 + (this.y[row] * scale - origin.y) ** 2;
      if (away < best) [best, found] = [away, row];
    }
    return found;
  }

  // Number of items of each first token in a part of the map
  tokensIn(bounds) {
    const counts = new Map();
    const { lat_deg: lat, lon_deg: lon, token } = this.columns;
    const [south, north, west, east] = [bounds.getSouth(), bounds.getNorth(), bounds.getWest(), bounds.getEast()];
    for (let row = 0; row < this.count; row++) {
      if (lat[row] < south || lat[row] > north || lon[row] < west || lon[row] > east) continue;
      counts.set(token[row], (counts.get(token[row]) ?? 0) + 1);
    }
    return counts;
  }
}
